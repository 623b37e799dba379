"""Where each model family keeps the modules that the relevance rules and the taps attach to.

A family is a row of `FAMILIES`, a norm class a row of `NORMS`, an activation class a row of `QUOTIENTS`; nothing else
in the package knows a model by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crane_lib.errors import CraneError


@dataclass(frozen=True)
class Family:
    """Dotted paths: from the causal language model, and from one decoder layer."""

    backbone: str = "model"
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    layer_norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    activation: str = "mlp.act_fn"


FAMILIES: dict[str, Family] = {"llama": Family(), "qwen2": Family()}  # by config.model_type


@dataclass(frozen=True)
class Norm:
    """How an RMSNorm class scales: `effective_weight(norm) * x * rsqrt(mean(x^2) + epsilon(norm))`."""

    effective_weight: Callable[[Any], Tensor] = lambda norm: norm.weight
    epsilon: Callable[[Any], float] = lambda norm: norm.variance_epsilon


NORMS: dict[str, Norm] = {"LlamaRMSNorm": Norm(), "Qwen2RMSNorm": Norm()}  # by class name


def _tanh_gelu_quotient(g: Tensor) -> Tensor:
    wide = g.to(torch.promote_types(g.dtype, torch.float32))
    # (1 + tanh z) / 2 = sigmoid(2 z), which does not cancel for very negative g
    return torch.sigmoid(math.sqrt(8 / math.pi) * (wide + 0.044715 * wide**3)).to(g.dtype)


def _gelu_quotient(g: Tensor) -> Tensor:
    return torch.special.ndtr(g.to(torch.promote_types(g.dtype, torch.float32))).to(g.dtype)


# act(g) / g in closed form, by class name: there is no division, so g = 0 is an ordinary point (1/2).
QUOTIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLUActivation": torch.sigmoid,
    "SiLU": torch.sigmoid,
    "GELUActivation": _gelu_quotient,
    "GELUTanh": _tanh_gelu_quotient,
    "NewGELUActivation": _tanh_gelu_quotient,
}


@dataclass(frozen=True)
class LayerParts:
    """The modules of one decoder layer."""

    norms: tuple[nn.Module, ...]
    query: nn.Module
    key: nn.Module
    value: nn.Module
    gate: nn.Module
    up: nn.Module
    down: nn.Module
    activation: nn.Module


@dataclass(frozen=True)
class ModelParts:
    """The modules of a causal language model, found by its family's paths."""

    backbone: nn.Module
    embedding: nn.Module
    final_norm: nn.Module
    head: nn.Module
    layers: tuple[LayerParts, ...]


def family_of(model: nn.Module) -> Family:
    """Look up the family of a causal language model by the `model_type` of its configuration.

    Raises
    ------
    CraneError : the model type has no row in `FAMILIES`
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in FAMILIES:
        seen = f"model type {model_type!r}" if model_type else f"{type(model).__name__} (it has no model type)"
        raise CraneError(f"{seen} has no relevance rules; the model types that have them: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def parts_of(model: nn.Module) -> ModelParts:
    """Find the modules of a model and check that each norm and activation has a rule.

    Raises
    ------
    CraneError : unknown model type, a module that is not where its family keeps it, or a module without a rule
    """
    family = family_of(model)

    def find(path: str) -> nn.Module:
        try:
            return model.get_submodule(path)
        except AttributeError as error:
            raise CraneError(
                f"{type(model).__name__} has no module '{path}'; pass the causal language model itself "
                "(and merge an adapter into it first)"
            ) from error

    def layer_parts(index: int) -> LayerParts:
        def part(path: str) -> nn.Module:
            return find(f"{family.layers}.{index}.{path}")

        return LayerParts(
            norms=tuple(part(path) for path in family.layer_norms),
            query=part(family.query),
            key=part(family.key),
            value=part(family.value),
            gate=part(family.gate),
            up=part(family.up),
            down=part(family.down),
            activation=part(family.activation),
        )

    layers = find(family.layers)
    parts = ModelParts(
        backbone=find(family.backbone),
        embedding=find(family.embedding),
        final_norm=find(family.final_norm),
        head=find(family.head),
        layers=tuple(layer_parts(index) for index in range(len(list(layers.children())))),
    )
    _check_rules_exist(model, parts)
    return parts


def _check_rules_exist(model: nn.Module, parts: ModelParts) -> None:
    placed = {id(norm) for layer in parts.layers for norm in layer.norms} | {id(parts.final_norm)}
    for path, module in model.named_modules():
        name = type(module).__name__
        has_rule = name in NORMS if id(module) in placed else "norm" not in name.lower()
        if not has_rule:
            raise CraneError(f"{path}: {name} has no relevance rule; norms that have one: {', '.join(NORMS)}")
    for index, layer in enumerate(parts.layers):
        name = type(layer.activation).__name__
        if name not in QUOTIENTS:
            raise CraneError(
                f"layer {index}: activation {name} has no relevance rule; those that have one: {', '.join(QUOTIENTS)}"
            )
