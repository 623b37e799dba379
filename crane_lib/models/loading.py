"""Loading models from Hugging Face directories, with the mistakes people make named."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from crane_lib.errors import CraneError

_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def pick_device(name: str) -> torch.device:
    """The device called `name`; ``auto`` takes a GPU where there is one.

    Raises
    ------
    CraneError : the name is no device, or the machine lacks it
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CraneError(f"device {name!r}: not a device; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CraneError(f"device {name!r}: no CUDA GPU is visible to torch {torch.__version__}; use device: auto")
    return device


def check_model_directory(path: Path) -> None:
    """Make sure that a directory holds configuration, weights and tokenizer.

    Raises
    ------
    CraneError : it does not; the missing part is named
    """
    if not path.is_dir():
        raise CraneError(f"model {path}: no such directory; give a Hugging Face model directory")
    if not (path / "config.json").is_file():
        raise CraneError(f"model {path}: has no config.json; give a Hugging Face model directory")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise CraneError(f"model {path}: has no weights (*.safetensors); was the download finished?")
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise CraneError(f"model {path}: has no tokenizer (tokenizer.json); copy the model's tokenizer files there")


def load_model(
    path: Path, *, device: str = "auto", dtype: str = "float32", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer for inference.

    Returns
    -------
    model in evaluation mode with parameters that take no gradient, and tokenizer with a pad token

    Raises
    ------
    CraneError : a part is missing or unreadable, or the tokenizer does not fit the model
    """
    check_model_directory(path)
    transformers_logging.disable_progress_bar()  # a bar of its own a shard, on the error stream
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        wanted = dtype if dtype == "auto" else getattr(torch, dtype)
        load: Any = AutoModelForCausalLM.from_pretrained
        model, found = load(
            path, config=config, dtype=wanted, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CraneError(f"model {path}: cannot be loaded ({type(error).__name__}: {reason})") from error
    if found["missing_keys"]:
        # transformers would go on with random numbers in their place.
        first, count = sorted(found["missing_keys"])[0], len(found["missing_keys"])
        raise CraneError(f"model {path}: its weights lack {first} ({count} in all); was the download finished?")
    width = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > width:
        raise CraneError(
            f"model {path}: its tokenizer has {len(tokenizer)} tokens, its embedding {width} rows; "
            "put the model's own tokenizer beside it"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    return model.to(pick_device(device)).eval(), tokenizer


def model_directory(folder: Path) -> Path:
    """The Hugging Face directory in a folder: the folder itself, or ``model/`` in a stage that trained one."""
    return folder / "model" if (folder / "model").is_dir() else folder


def directory_fingerprint(path: Path) -> str:
    """Short hash of a model directory: names and sizes of its files, content of the small ones."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 22))
                if size > 1 << 23:
                    stream.seek(-(1 << 22), 2)
                    digest.update(stream.read())
    return digest.hexdigest()[:16]
