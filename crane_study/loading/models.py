"""Loading causal language models from Hugging Face directories, with errors that name the usual mistakes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from crane_lib.errors import CraneError
from crane_lib.precision import compute_in_double
from crane_lib.relevance.families import FAMILIES
from crane_lib.wrappers import text_settings
from crane_study.loading.gguf_files import as_directory, check_gguf, is_gguf
from crane_study.loading.tokenization import load_tokenizer
from crane_study.loading.weights import check_settings, check_weights, stored_dtype, weight_bytes

MAP = "map"  # the device name that spreads a model over all GPUs

_WEIGHTS = ("*.safetensors", "*.bin")
_OLD_BUFFERS = ("masked_bias", "inv_freq")  # constants that older versions wrote beside the weights
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_LOADING_ERRORS = (  # damaged files break their readers anywhere; pickles that would run code are refused
    *(
        ImportError,
        OSError,
        ValueError,
        RuntimeError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        ArithmeticError,
    ),
    *(SafetensorError, UnpicklingError),
)
# Rows of an embedding without a token. Published models have up to 905 of 51,200 (phi-2, 1.8 %) and 2,385 of 102,400
# (DeepSeek, 2.3 %); the rows of a small model may be padded to a multiple of 64.
_PADDED_SHARE, _PADDED_ROWS = 0.05, 64


def load_model(
    path: str | os.PathLike[str], *, device: str = "auto", dtype: str = "float32", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer for inference; of Gemma 3 with pictures, the language model.

    Parameters
    ----------
    path : Hugging Face directory, or a GGUF file, which is converted once
    device : ``auto``, ``cpu``, ``cuda``, ``cuda:1``, or ``map``: spread over all GPUs of this machine
    dtype : name of a floating-point type of torch, or ``auto`` for that of most values in the file

    Returns
    -------
    model in evaluation mode with parameters that take no gradient, and tokenizer with a pad token

    Raises
    ------
    CraneError : a part is missing, unreadable or quantised, or tokenizer, model and GPUs do not fit one another
    """
    path = as_directory(path)
    check_model_directory(path)
    mapped = device == MAP
    if mapped and not torch.cuda.is_available():
        raise CraneError(f"device {MAP!r}: no CUDA GPU is visible to torch {torch.__version__}; use device: auto")
    if mapped and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise CraneError(
            f"device {MAP!r}: takes all GPUs of a machine, but {os.environ['LOCAL_WORLD_SIZE']} processes were started "
            "on it; start one (--nproc-per-node 1)"
        )
    place = torch.device("cpu") if mapped else pick_device(device)
    if dtype == "auto":
        dtype = stored_dtype(path) or dtype  # config.json may name another one than the file has
    check_memory(path, place=place, dtype=dtype)
    if trust_remote_code:
        warnings.warn(f"model {path}: code that comes with it may run (trust_remote_code)", stacklevel=2)
    transformers_logging.disable_progress_bar()  # it would write one bar per shard to the error stream
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
        load: Any = AutoModelForCausalLM.from_pretrained
        model, found = load(
            path,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            experts_implementation="eager",  # the only one in float64, and that of a layer under a mask or rules
            **({"device_map": "auto"} if mapped else {}),
        )
    except _LOADING_ERRORS as error:
        raise CraneError(f"model {path}: cannot be loaded ({type(error).__name__}: {_one_line(error)})") from error
    _check_found(found, path)
    if config.model_type in FAMILIES and text_settings(model) is not model.config:
        model = _text_model(model, path)
    check_tokenizer(tokenizer, model, path)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    if model.dtype == torch.float64:
        compute_in_double(model)
    if mapped:
        check_placement(model, path)
    else:
        model = model.to(place)
    check_finite(model, path)
    return model.eval(), tokenizer


def _text_model(whole: PreTrainedModel, path: Any) -> PreTrainedModel:
    """Language model in a model that also reads pictures, with the same modules; `path` is where it was loaded from."""
    config: Any = text_settings(whole)
    warnings.warn(f"model {path}: reads more than text; only its language model is used", stacklevel=3)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    inner: Any = whole.base_model
    setattr(model, model.base_model_prefix, inner.language_model)
    model.set_output_embeddings(whole.get_output_embeddings())
    model.generation_config, model.name_or_path = whole.generation_config, str(path)
    if hasattr(whole, "hf_device_map"):
        model.hf_device_map = whole.hf_device_map
    return model.eval()


def _check_found(found: dict[str, Any], path: Path) -> None:
    """Refuse weights that transformers would replace by random numbers, or leave out."""
    mismatched, missing = sorted(found["mismatched_keys"]), sorted(found["missing_keys"])
    unexpected = [name for name in sorted(found["unexpected_keys"]) if not name.endswith(_OLD_BUFFERS)]
    if mismatched:
        name, stored, wanted = mismatched[0]
        raise CraneError(
            f"model {path}: its weights have {name} as {tuple(stored)}, config.json as {tuple(wanted)} "
            f"({len(mismatched)} of other sizes in all); put the model's own config.json there"
        )
    if missing:
        count = f"{len(missing)} in all"
        raise CraneError(f"model {path}: its weights lack {missing[0]} ({count}); was the download finished?")
    if unexpected:
        raise CraneError(
            f"model {path}: its weights hold {unexpected[0]} ({len(unexpected)} in all), for which config.json has no "
            "place; put the model's own config.json there, or save the model without them"
        )


def check_finite(model: PreTrainedModel, path: str | os.PathLike[str]) -> None:
    """Refuse a model with NaN or infinity in its weights, by the name of the first of them."""
    for name, values in model.named_parameters():
        # A sum is one pass without a copy; that of finite values may overflow, so it only says where to look.
        if not values.sum(dtype=torch.float32).isfinite() and not (finite := values.isfinite()).all():
            count = f"{int((~finite).sum())} of its {values.numel()} values"
            raise CraneError(
                f"model {path}: {name} has NaN or infinity ({count}); fetch or save the model again, not in float16"
            )


def check_memory(path: Path, *, place: torch.device, dtype: str) -> None:
    """Refuse weights that are larger than the free memory of the device, before they are read."""
    values, needed = weight_bytes(path, dtype)
    free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise CraneError(
            f"model {path}: its {values:,} values in {dtype} take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of "
            f"memory are free on {place.type}; use dtype: bfloat16, a smaller model, or a larger machine"
        )


def check_model_directory(path: str | os.PathLike[str]) -> None:
    """Refuse a directory without configuration, plain weights or tokenizer, or a GGUF file that is not read."""
    path = Path(path)
    if is_gguf(path):
        check_gguf(path)
        return
    if not path.is_dir():
        raise CraneError(f"model {path}: no such directory; give a Hugging Face model directory")
    check_settings(path)
    if not (path / "config.json").is_file():
        raise CraneError(f"model {path}: has no config.json; give a Hugging Face model directory")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise CraneError(f"model {path}: has no weights (*.safetensors); was the download finished?")
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise CraneError(f"model {path}: has no tokenizer (tokenizer.json); copy the model's tokenizer files there")
    check_weights(path)


def model_directory(folder: str | os.PathLike[str]) -> Path:
    """Hugging Face directory in a folder: the folder itself, or its ``model/`` if a stage trained one."""
    folder = Path(folder)
    return folder / "model" if (folder / "model").is_dir() else folder


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# --- devices ---


def pick_device(name: str) -> torch.device:
    """Device of a name; ``auto`` is a GPU if there is one.

    Under torchrun ``auto`` and ``cuda`` are the GPU with the local rank of this process.

    Raises
    ------
    CraneError : the name is no device, or the machine lacks it
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CraneError(f"device {name!r}: not a device; use auto, cpu, cuda or {MAP}") from error
    if device.type != "cuda":
        try:  # torch knows names of devices that it, or the machine, lacks
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, ImportError) as error:
            raise CraneError(f"device {name!r}: cannot be computed on here; there are {_devices()}") from error
        return device
    if not torch.cuda.is_available():
        raise CraneError(f"device {name!r}: no CUDA GPU is visible to torch {torch.__version__}; use device: auto")
    if device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise CraneError(
                f"process {device.index} of this machine has no GPU of its own: {torch.cuda.device_count()} are "
                "visible; start as many processes as GPUs (--nproc-per-node)"
            )
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise CraneError(f"device {name!r}: no such GPU; there are {_devices()}")
    return device


def _devices() -> str:
    """Names of the devices of this machine."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return ", ".join(["cpu", *(f"cuda:{number}" for number in gpus)])


def check_placement(model: PreTrainedModel, path: str | os.PathLike[str]) -> None:
    """Refuse a model spread by accelerate that is not all on GPUs; no backward pass goes through the rest."""
    placed = getattr(model, "hf_device_map", {})
    outside = sorted(name for name, device in placed.items() if str(device) in ("cpu", "disk", "meta"))
    if outside:
        raise CraneError(
            f"model {path}: does not fit on the GPUs: {len(outside)} of its {len(placed)} parts were left over (the "
            f"first: {outside[0] or 'all of it'}); use more GPUs or dtype: bfloat16"
        )


# --- tokenizers ---


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, path: str | os.PathLike[str]) -> None:
    """Refuse a tokenizer that cannot be the model's own.

    Added tokens may lie beyond the embedding as long as no text has them: a token for padding, which is not needed, or
    for pictures (Gemma 3). Begin and end tokens that the tokenizer names and the model does not may have a good
    reason, such as a chat format, and cause a warning; with far more rows than tokens they cause an error.
    """
    embedding: Any = model.get_input_embeddings()
    rows: int = embedding.num_embeddings
    size = f"its tokenizer has {len(tokenizer)} tokens, its embedding {rows} rows"
    if len(tokenizer) > rows:
        used = _ids(tokenizer.bos_token_id, tokenizer.eos_token_id)
        added = set(tokenizer.get_added_vocab().values()) - used
        if any(number >= rows and number not in added for number in tokenizer.get_vocab().values()):
            raise CraneError(f"model {path}: {size}; put the model's own tokenizer there")
    own = _ids(tokenizer.bos_token_id, tokenizer.eos_token_id)
    named: set[int] = set()
    for settings in (model.config, model.generation_config):
        named |= _ids(getattr(settings, "bos_token_id", None), getattr(settings, "eos_token_id", None))
    if not own or not named or own & named:
        return
    differ = f"the tokenizer begins and ends texts with {_told(own)}, the model's configuration names {_told(named)}"
    both = tokenizer.bos_token_id is not None and tokenizer.eos_token_id is not None
    if both and rows - len(tokenizer) > max(_PADDED_ROWS, _PADDED_SHARE * rows):
        raise CraneError(f"model {path}: {size}, and {differ}; put the model's own tokenizer there")
    warnings.warn(f"model {path}: {differ}; is it the model's own?", stacklevel=3)


def _ids(*given: Any) -> set[int]:
    """Token ids given as numbers, lists of numbers or None."""
    listed = [value if isinstance(value, list | tuple) else [value] for value in given]
    return {number for value in listed for number in value if number is not None}


def _told(ids: set[int]) -> str:
    return "token " + " and ".join(map(str, sorted(ids)))


def check_same_vocabulary(
    base: str | os.PathLike[str],
    chat: str | os.PathLike[str],
    *,
    names: tuple[str, str],
    trust_remote_code: bool = False,
) -> None:
    """Refuse a chat model without the tokens of its base model; either may have added some.

    Sets are masked in both models and texts are read by both, so a token must be the same in both. `names` are theirs.
    """
    vocabularies, added = [], set[int]()
    for path in (base, chat):
        try:
            tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
        except _LOADING_ERRORS as error:
            raise CraneError(f"model {path}: its tokenizer cannot be loaded ({_one_line(error)})") from error
        vocabularies.append({number: token for token, number in tokenizer.get_vocab().items()})
        added |= set(tokenizer.get_added_vocab().values())
    one, other = vocabularies
    differing = sorted(n for n in (one.keys() | other.keys()) - added if one.get(n) != other.get(n))
    if differing:
        first = differing[0]
        raise CraneError(
            f"models {names[0]} and {names[1]}: their tokenizers differ in {len(differing)} tokens (the first, "
            f"{first}: {one.get(first)!r} and {other.get(first)!r}); use a chat model made from the base model"
        )
