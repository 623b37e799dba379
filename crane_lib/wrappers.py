"""Language models within others: beneath adapters of PEFT, beside a part that reads pictures, or quantised."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from crane_lib.errors import CraneError

_QUANTISED_CLASSES = re.compile("8bit|4bit|FP8|Quant|WQLinear|HQQ", re.IGNORECASE)
_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def causal_model(model: Any) -> Any:
    """Causal language model that a PEFT model holds, adapters and all; of any other model, the model itself.

    Raises
    ------
    CraneError : the adapter is a prompt, which is not in the model
    """
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise CraneError(
            f"{type(model).__name__}: a learnt prompt ({kind}) is no part of the model; take the base model"
        )
    return model.get_base_model()


def text_settings(model: Any) -> Any:
    """Configuration of the language model, also where it is part of a model that reads more than text."""
    config = getattr(model, "config", None)
    return getattr(config, "text_config", None) or config


def _is_lora(layer: Any) -> bool:
    return (type(layer).__module__, type(layer).__name__) == ("peft.tuners.lora.layer", "Linear")


def is_adapter(path: str, layer: Any) -> bool:
    """Return whether a module is a plain LoRA layer of PEFT: linear, with its base layer and its low-rank path in it.

    Raises
    ------
    CraneError : it is another module of PEFT
    """
    kind = type(layer).__module__
    if not kind.startswith("peft."):
        return False
    if not _is_lora(layer) or any(n in layer.lora_variant or layer.lora_bias.get(n) for n in layer.active_adapters):
        raise CraneError(
            f"{path}: adapter {kind.removeprefix('peft.')}.{type(layer).__name__} has no rule; merge it into the model "
            "first (merge_and_unload of peft)"
        )
    return True


def linear_weight(module: Any) -> Tensor:
    """Weight of a linear module as stored, plus what active adapters of a LoRA layer add."""
    weight: Tensor = module.weight
    if _is_lora(module) and not module.disable_adapters and not module.merged:
        weight = sum((module.get_delta_weight(n) for n in module.active_adapters if n in module.lora_A), weight)
    return weight


def adapter_settings(model: nn.Module) -> str:
    """Adapters in force by module, with their scaling; empty without adapters."""
    layers = [(name, layer) for name, layer in model.named_modules() if _is_lora(layer)]
    found = [(name, layer.active_adapters, layer.disable_adapters, layer.scaling) for name, layer in layers]
    return str(found) if found else ""


def check_plain(path: str, module: nn.Module) -> None:
    """Refuse a module whose weights are quantised: its gradient is not that of what it computes."""
    weight, name = getattr(module, "weight", None), type(module).__name__
    packed = _QUANTISED_CLASSES.search(name) is not None or hasattr(module, "qweight")
    if isinstance(weight, Tensor):
        packed |= weight.dtype not in _PLAIN or type(weight.data).__module__.partition(".")[0] != "torch"
    if packed:
        raise CraneError(
            f"{path}: {name} holds quantised weights, and relevance and masks need plain ones; load the checkpoint "
            "that it was made from, without quantisation"
        )
