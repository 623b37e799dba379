"""What is around a language model: adapters of PEFT, a model that also reads pictures, quantised weights."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from crane_lib.errors import CraneError
from crane_lib.weights import check_config

_QUANTISED_CLASSES = re.compile("8bit|4bit|FP8|Quant|WQLinear|HQQ", re.IGNORECASE)
_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_MERGE = "merge it into the model first (merge_and_unload of peft)"


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


def text_model(whole: PreTrainedModel, path: Any) -> PreTrainedModel:
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


def is_adapter(path: str, module: nn.Module) -> bool:
    """Return whether a module is a plain LoRA layer of PEFT: linear, with its base layer and its low-rank path in it.

    Raises
    ------
    CraneError : it is another module of PEFT
    """
    layer: Any = module
    kind = type(layer).__module__
    if not kind.startswith("peft."):
        return False
    special = [layer.lora_variant, {name for name, used in layer.lora_bias.items() if used}] if _is_lora(layer) else []
    if not special or any(name in names for names in special for name in layer.active_adapters):
        raise CraneError(f"{path}: adapter {kind.removeprefix('peft.')}.{type(layer).__name__} has no rule; {_MERGE}")
    return True


def _is_lora(layer: Any) -> bool:
    return (type(layer).__module__, type(layer).__name__) == ("peft.tuners.lora.layer", "Linear")


def linear_weight(module: Any) -> Tensor:
    """Weight of a linear module as stored, plus what active adapters of a LoRA layer add."""
    weight: Tensor = module.weight
    if _is_lora(module) and not module.disable_adapters and not module.merged:
        for name in module.active_adapters:
            weight = weight + module.get_delta_weight(name) if name in module.lora_A else weight
    return weight


def adapter_settings(model: nn.Module) -> str:
    """Adapters in force by module, with their scaling; empty without adapters."""
    found = [
        (name, layer.active_adapters, layer.disable_adapters, layer.scaling)
        for name, layer in model.named_modules()
        if _is_lora(layer)
    ]
    return str(found) if found else ""


def check_plain(path: str, module: nn.Module) -> None:
    """Refuse a module whose weights are quantised: its gradient is not that of what it computes."""
    weight, name = getattr(module, "weight", None), type(module).__name__
    packed = _QUANTISED_CLASSES.search(name) is not None or hasattr(module, "qweight")
    if isinstance(weight, Tensor):
        owner = type(weight.data).__module__.partition(".")[0]
        packed |= weight.dtype not in _PLAIN or owner != "torch"
        name += f" of {owner}" if owner != "torch" else ""
    if packed:
        raise CraneError(
            f"{path}: {name} holds quantised weights, and relevance and masks need plain ones; load the checkpoint "
            "that it was made from, without quantisation"
        )


def check_unquantised(model: Any) -> None:
    """Refuse a model whose configuration says that it is quantised."""
    if getattr(model.config, "quantization_config", None):
        check_config(model.config.to_dict(), type(model).__name__)
