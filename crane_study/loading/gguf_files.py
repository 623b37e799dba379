"""GGUF files of language models: converted once to Hugging Face directories, which lie in a cache.

A converted model has the dequantised values of the file, exactly, in float32. Its directory is named by the SHA-256 of
the file, so the file may be moved or removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from filelock import FileLock
from safetensors import SafetensorError

from crane_lib.errors import CraneError
from crane_lib.files import atomic, read_json, sha256, write_json

# torch and transformers are imported where they are needed: commands that only ask for the cache start without them.

CACHE_VARIABLE = "CRANE_CACHE"
ORIGIN = "crane-origin.json"  # in a converted directory: which file it was made of, and by which versions

_ENDING = ".gguf"
_FORM = 1  # of a conversion; with another number every file is converted again
_ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "bloom")  # with rules, and read right
_VISION = ("clip", "mmproj", "vision")  # in the architecture or type of files for pictures
# Settings of a file that change what the model computes, and that transformers does not read from it.
_UNREAD_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_OWN_SCALES = (("gemma2", 46), ("gemma3", 62))  # layers of the 27B models, whose attention is scaled in their own way
_BYTES = 4  # of a float32
_FULL = "the disk is full"  # in the message of files.atomic
_ERRORS = (ImportError, OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError)

Progress = Callable[[int, int], None]  # called with the tensors read and their number


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a GGUF file, by its ending."""
    return Path(path).suffix.lower() == _ENDING


def crane_cache() -> Path:
    """Folder of converted and fetched models: ``$CRANE_CACHE``, else ``crane`` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crane"


def converted_directory(digest: str) -> Path:
    """Directory of the model that a GGUF file of this SHA-256 is converted to; it may not be there yet."""
    return crane_cache() / "models" / f"gguf-{_FORM}-{digest}"


def as_directory(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """Hugging Face directory of a model: a path that is no GGUF file itself, else the directory converted from it.

    Raises
    ------
    CraneError : the file is missing or unreadable, of a family without rules, or the disk of the cache is full
    """
    path = Path(path)
    if not is_gguf(path):
        return path
    check_gguf(path)
    folder = converted_directory(sha256(path))
    if is_converted(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not is_converted(folder):  # another process may have made it meanwhile
                _convert(path, folder, progress)
    except OSError as error:
        told = f"cannot be written ({error.strerror}); name another cache in {CACHE_VARIABLE}"
        raise CraneError(f"{folder.parent}: {told}") from error
    return folder


@cache
def _is_as_written(file: Path, digest: str) -> bool:
    return file.is_file() and sha256(file) == digest


def is_converted(folder: Path) -> bool:
    """Return whether a converted directory is there with all its files as they were written."""
    try:
        files = read_json(folder / ORIGIN).get("files", {}).items()
        return all(_is_as_written(folder / name, digest) for name, digest in files)
    except (CraneError, AttributeError, OSError):
        return False


def check_gguf(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check that a file is the GGUF file of a language model of a known family; return its metadata.

    Raises
    ------
    CraneError : it is missing, unreadable, of an unknown architecture or of a vision model, or it has settings that
        transformers does not read
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata

    path = Path(path)
    if not path.is_file():
        raise CraneError(f"model {path}: no such file; give a GGUF file or a Hugging Face model directory")
    try:
        about, tensors = read_gguf_metadata(str(path))
    except Exception as error:  # a damaged file breaks the reader anywhere
        reason = " ".join(str(error).split())[:120]
        raise CraneError(f"model {path}: is no readable GGUF file ({reason}); was the download finished?") from error
    name = str(about["general.architecture"])
    kind = str(about.get("general.type", "model"))
    if any(word in (name, kind) for word in _VISION) or any(tensor.startswith("v.") for tensor in tensors):
        raise CraneError(f"model {path}: is the vision part of a model ({name!r}); give the file of its language model")
    if name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise CraneError(f"model {path}: its architecture is {name!r}; GGUF files of these can be used: {known}")
    unread = [tensor for tensor in _UNREAD_TENSORS if tensor in tensors]
    scaling = f"{name}.rope.scaling.type"
    unread += [scaling] if about.get(scaling, "none") != "none" else []
    unread += [f"{name}.block_count"] if (name, about.get(f"{name}.block_count")) in _OWN_SCALES else []
    if unread:
        raise CraneError(
            f"model {path}: transformers would not read its {unread[0]} and compute something else; give the model's "
            "Hugging Face directory"
        )
    return dict(about)


def _convert(path: Path, folder: Path, progress: Progress | None) -> None:
    """Write the Hugging Face directory of a GGUF file."""
    about = check_gguf(path)
    try:
        _write(path, folder, progress, about)
    except CraneError as error:
        if _FULL not in str(error):
            raise
        raise CraneError(f"{error}, or name another cache in {CACHE_VARIABLE}") from error
    except _ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise CraneError(f"model {path}: cannot be converted ({type(error).__name__}: {reason})") from error


def _write(path: Path, folder: Path, progress: Progress | None, about: dict[str, Any]) -> None:
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
    from transformers.utils import logging as transformers_logging

    given: dict[str, Any] = {"gguf_file": path.name}
    transformers_logging.disable_progress_bar()

    def reported(tensors: Iterable[Any], **_options: Any) -> Iterator[Any]:
        listed = list(tensors)
        for number, tensor in enumerate(listed):
            if progress is not None:
                progress(number, len(listed))
            yield tensor
        if progress is not None:
            progress(len(listed), len(listed))

    tokenizer = AutoTokenizer.from_pretrained(path.parent, **given)
    with mock.patch.object(modeling_gguf_pytorch_utils, "tqdm", reported):
        load: Any = AutoModelForCausalLM.from_pretrained
        model, found = load(path.parent, dtype=torch.float32, output_loading_info=True, **given)
    if found["missing_keys"]:
        first, count = sorted(found["missing_keys"])[0], len(found["missing_keys"])
        raise CraneError(f"model {path}: its weights lack {first} ({count} in all); was the download finished?")
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)  # its values are dequantised; with the entry they could not be saved
    settings |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    needed, free = _BYTES * plain.num_parameters() / 1e9, shutil.disk_usage(folder.parent).free / 1e9
    if free < needed:
        raise CraneError(
            f"model {path}: converted it takes {needed:.1f} GB, {folder.parent} has {free:.1f} GB free; name another "
            f"cache in {CACHE_VARIABLE}"
        )
    with atomic(folder) as temporary:
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _is_as_written.cache_clear()
        write_json(
            temporary / ORIGIN,
            {
                "file": path.name,
                "sha256": sha256(path),
                "name": about.get("general.name"),
                "architecture": about["general.architecture"],
                "file_type": about.get("general.file_type"),  # the quantisation, by the numbers of llama.cpp
                "transformers": transformers.__version__,
                "files": {file.name: sha256(file) for file in sorted(temporary.iterdir())},
            },
        )
