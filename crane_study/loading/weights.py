"""Files of a model, read before transformers loads them with scales left out or an adapter added, without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError, safe_open

from crane_lib.errors import CraneError
from crane_lib.files import read_json

_FORMS = (  # in the order in which transformers looks for them
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_PLAIN = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

_QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")  # beside config.json
_METHODS = ("quant_method", "quant_algo", "format")  # settings that name it
_DEQUANTISED = "from_pretrained(..., quantization_config={}(dequantize=True)).save_pretrained(...) of transformers"
_CONVERSIONS = {  # by method: what writes plain weights
    **dict.fromkeys(("fp8", "mxfp8"), _DEQUANTISED.format("FineGrainedFP8Config")),
    "mxfp4": _DEQUANTISED.format("Mxfp4Config"),
    "compressed-tensors": _DEQUANTISED.format("CompressedTensorsConfig") + " and the package compressed-tensors",
    "bitsandbytes": "from_pretrained(...).dequantize() of transformers and the package bitsandbytes",
    **dict.fromkeys(("gptq", "awq"), "dequantize_model of the package gptqmodel"),
}


def check_settings(folder: Path) -> None:
    """Refuse a folder whose config.json, or a file beside it, names a quantisation or an adapter."""
    if (folder / "adapter_config.json").is_file():
        raise CraneError(
            f"model {folder}: holds an adapter (adapter_config.json), which is loaded or not depending on the packages "
            "here; merge it (merge_and_unload of peft) and save the model, or remove that file if it is merged"
        )
    check_config(_settings(folder / "config.json"), folder)
    for beside in _QUANTISED_FILES:
        if (folder / beside).is_file():
            raise _quantised(folder, _method(_settings(folder / beside)), seen=beside)


def check_config(config: Any, name: str | Path) -> None:
    """Refuse settings of a model, as in config.json, that name a quantisation."""
    config = config if isinstance(config, dict) else {}
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]  # a part is text_config
    for key in ("quantization_config", "compression_config"):
        found = next((part[key] for part in parts if isinstance(part.get(key), dict)), None)
        if found:
            raise _quantised(name, _method(found), seen=f"{key} in config.json")


def check_weights(folder: Path) -> None:
    """Refuse weights that are not complete, in one form only, and plain numbers; only headers are read."""
    for name, (kind, _size) in tensor_types(folder).items():
        whole = not kind.startswith("f")  # masks may be stored as whole numbers
        if kind not in _PLAIN.values() and (not whole or "weight" in name.rpartition(".")[2]):
            raise _quantised(folder, kind, seen=f"tensor {name}")


def tensor_types(folder: Path) -> dict[str, tuple[str, int]]:
    """Types (by torch's names) and sizes of the tensors that transformers would read from a folder, by their names."""
    return {name: found for path in _weight_files(folder) for name, found in _types(path)}


def stored_dtype(folder: Path) -> str | None:
    """Type of most values in a folder, as torch names it; None if it cannot be told."""
    counts = dict.fromkeys(_PLAIN.values(), 0)
    for kind, size in tensor_types(folder).values():
        counts[kind] = counts.get(kind, 0) + size
    found = max(_PLAIN.values(), key=counts.__getitem__)
    return found if counts[found] else None


def weight_bytes(folder: Path, dtype: str) -> tuple[int, int]:
    """Number of values in the weights of a folder, and bytes that they take when loaded in a type of torch's."""
    types = list(tensor_types(folder).values())
    return sum(size for _kind, size in types), sum(
        size * _BYTES.get(dtype, _BYTES.get(kind, 1)) for kind, size in types
    )


def _settings(path: Path) -> dict[str, Any]:
    found: Any = {}
    with suppress(CraneError):  # no such file, or a damaged one: loading says what is wrong with it
        found = read_json(path)
    return found if isinstance(found, dict) else {}


def _quantised(name: str | Path, method: str, *, seen: str) -> CraneError:
    conversion = _CONVERSIONS.get(method)
    other = f", or write a plain one with {conversion}" if conversion else ""
    return CraneError(
        f"model {name}: its weights are quantised ({method}, by {seen}), and relevance and masks need plain ones; take "
        f"the checkpoint that it was made from{other}"
    )


def _method(settings: dict[str, Any]) -> str:
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    inner = settings.get("quantization")
    named = [part.get(key) for part in (settings, inner) if isinstance(part, dict) for key in _METHODS]
    return next((str(name).lower() for name in named if name), "unknown method")


def _weight_files(folder: Path) -> list[Path]:
    """Files that transformers takes the weights from."""
    for whole, index in _FORMS:
        if (folder / whole).is_file():
            if (folder / index).is_file():
                raise CraneError(f"model {folder}: has {whole} and {index}; remove the one that is not meant")
            return [folder / whole]
        if (folder / index).is_file():
            try:
                names = sorted(set(read_json(folder / index)["weight_map"].values()))
            except (CraneError, KeyError, TypeError, AttributeError) as error:
                raise CraneError(f"model {folder}: {index} is not an index of weights; fetch it again") from error
            for name in names:
                if not isinstance(name, str) or "\0" in name or Path(name).name != name:
                    raise CraneError(f"model {folder}: {index} names {name!r}, no file of that folder; fetch it again")
                if not (folder / name).is_file():
                    raise CraneError(f"model {folder}: lacks {name}, a file of {index}; was the download finished?")
            return [folder / name for name in names]
    return []


def _types(path: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    if path.suffix == ".safetensors":
        with suppress(SafetensorError), safe_open(path, framework="np") as file:  # a damaged one is for loading to name
            for name in file.keys():  # noqa: SIM118 -- it is no mapping
                tensor = file.get_slice(name)
                kind = str(tensor.get_dtype())
                yield name, (_PLAIN.get(kind, kind.lower()), prod(tensor.get_shape()))
        return
    import torch  # only here: checks of settings do without

    tensors: Any = {}
    with suppress(OSError, RuntimeError, ValueError, EOFError, UnpicklingError):  # an old form, or damaged
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            yield name, (str(tensor.dtype).removeprefix("torch."), tensor.numel())
