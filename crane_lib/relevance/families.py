"""Tables of model families, norm classes and activation classes; no other module knows a model by name.

`register_family` adds entries for a family of the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from crane_lib.errors import CraneError
from crane_lib.precision import widened

# --- activations: act(g) / g, exact at g = 0 ---


def gelu_quotient(g: Tensor) -> Tensor:
    """GELU: the normal distribution function."""
    return torch.special.ndtr(widened(g)).to(g.dtype)


def tanh_gelu_quotient(g: Tensor, *, slope: float = math.sqrt(2 / math.pi)) -> Tensor:
    """GELU by its tanh approximation; some models write its `slope` with fewer digits."""
    wide = widened(g)
    # (1 + tanh z) / 2 = sigmoid(2 z), which does not cancel for very negative g
    return torch.sigmoid(2 * slope * (wide + 0.044715 * wide**3)).to(g.dtype)


def tanh_quotient(g: Tensor) -> Tensor:
    """Hyperbolic tangent: 1 at 0; below 0.01 its series, which is exact there to the last digit of float64."""
    wide = widened(g)
    square = wide * wide
    near = 1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315)))
    return torch.where(wide.abs() < 0.01, near, torch.tanh(wide) / wide).to(g.dtype)


# --- families ---

# Outputs of an attention projection: one of the three; all queries, then all keys, then all values ("stacked"); or
# query, key and value of head 0, then of head 1, and so on ("by_head").
Layout = Literal["query", "key", "value", "stacked", "by_head"]

_SEPARATE: Mapping[str, Layout] = {"self_attn.q_proj": "query", "self_attn.k_proj": "key", "self_attn.v_proj": "value"}


@dataclass(frozen=True)
class Family:
    """Paths of a family's modules: dotted, from the causal language model and from one decoder layer.

    Norms need no path: a module of a class in `NORMS` gets the rule of that entry anywhere in the model.

    Parameters
    ----------
    backbone, embedding, layers, head : paths from the model; `layers` is a module list, `head` linear. Modules of
        the base model that are not in the backbone, such as those that read pictures, are not looked at
    projections : attention projections by path from a layer, with the layout of their outputs
    attention, output : paths of the attention module and of its output projection
    gate, up, down, activation : paths of the MLP's parts from a layer. `gate` is None for an ungated MLP, whose
        matrix before the activation is `up`; if gate and up are one module, its first half is the gate
    experts : path of the experts of a mixture, which hold gate, up and down of all; its parent gives them (B, T, H)
    attention_softcap, final_softcap : names of the settings that cap attention logits and final logits, or None
    logit_scale : name of the setting that final logits are multiplied with, or None
    linear : names of further module classes that are linear or constant; the ordinary gradient is their rule
    additive : True if the backbone only runs its layers on the embeddings, and a layer adds the MLP's output to the
        residual stream unchanged; `crane_lib.ablation` then resumes from a layer instead of starting over
    """

    backbone: str = "model"
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    head: str = "lm_head"
    projections: Mapping[str, Layout] = field(default_factory=lambda: _SEPARATE)
    attention: str = "self_attn"
    output: str = "self_attn.o_proj"
    gate: str | None = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    activation: str = "mlp.act_fn"
    experts: str | None = None
    attention_softcap: str | None = None
    final_softcap: str | None = None
    logit_scale: str | None = None
    linear: tuple[str, ...] = ()
    additive: bool = False


FAMILIES: dict[str, Family] = {  # by config.model_type
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), Family(additive=True)),
    **dict.fromkeys(("olmo2", "olmo3"), Family()),  # not additive: a norm follows the MLP, in Gemma too
    "gemma2": Family(attention_softcap="attn_logit_softcapping", final_softcap="final_logit_softcapping"),
    "gemma3_text": Family(final_softcap="final_logit_softcapping"),  # its attention does not read the other setting
    "gemma3": Family(  # with a part that reads pictures
        backbone="model.language_model",
        embedding="model.language_model.embed_tokens",
        layers="model.language_model.layers",
        final_softcap="final_logit_softcapping",
    ),
    # Aya and Command R: attention and MLP read the same normed stream, and both are added to it.
    **dict.fromkeys(("cohere", "cohere2"), Family(logit_scale="logit_scale", additive=True)),
    "qwen3_moe": Family(experts="mlp.experts", activation="mlp.experts.act_fn", linear=("Qwen3MoeTopKRouter",)),
    "phi3": Family(
        projections={"self_attn.qkv_proj": "stacked"},
        gate="mlp.gate_up_proj",
        up="mlp.gate_up_proj",
        activation="mlp.activation_fn",
        additive=True,
    ),
    "gpt2": Family(
        backbone="transformer",
        embedding="transformer.wte",
        layers="transformer.h",
        projections={"attn.c_attn": "stacked"},
        attention="attn",
        output="attn.c_proj",
        gate=None,
        up="mlp.c_fc",
        down="mlp.c_proj",
        activation="mlp.act",
    ),
    "bloom": Family(
        backbone="transformer",
        embedding="transformer.word_embeddings",
        layers="transformer.h",
        projections={"self_attention.query_key_value": "by_head"},
        attention="self_attention",
        output="self_attention.dense",
        gate=None,
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        activation="mlp.gelu_impl",
    ),
    "gpt_neox": Family(
        additive=True,
        backbone="gpt_neox",
        embedding="gpt_neox.embed_in",
        layers="gpt_neox.layers",
        projections={"attention.query_key_value": "by_head"},
        attention="attention",
        output="attention.dense",
        gate=None,
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        activation="mlp.act",
    ),
}


# --- norms ---


@dataclass(frozen=True)
class Norm:
    """Scaling of a norm class: weight * (x - centre) / sqrt(mean((x - centre)^2) + epsilon), with or without a bias.

    Parameters
    ----------
    weight : effective weight of a module of the class, or None
    epsilon : its epsilon
    centred : the centre is the mean of x (LayerNorm) rather than 0 (RMSNorm)
    precision : dtype in which the module computes the normaliser; None for the dtype of x, at least float32
    """

    weight: Callable[[Any], Tensor | None] = lambda norm: norm.weight
    epsilon: Callable[[Any], float] = lambda norm: norm.variance_epsilon
    centred: bool = False
    precision: torch.dtype | None = torch.float32


_ONE_PLUS_WEIGHT = Norm(weight=lambda norm: 1 + norm.weight.float(), epsilon=lambda norm: norm.eps)

NORMS: dict[str, Norm] = {  # by class name
    **{
        f"{name}RMSNorm": Norm()
        for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3Moe", "Olmo2", "Olmo3", "Phi3")
    },
    "Gemma2RMSNorm": _ONE_PLUS_WEIGHT,
    "Gemma3RMSNorm": _ONE_PLUS_WEIGHT,
    **{f"{name}LayerNorm": Norm(centred=True) for name in ("Cohere", "Cohere2")},
    "LayerNorm": Norm(epsilon=lambda norm: norm.eps, centred=True, precision=None),
}

QUOTIENTS: dict[str, Callable[[Tensor], Tensor]] = {  # act(g) / g by class name
    "SiLUActivation": torch.sigmoid,
    "SiLU": torch.sigmoid,
    "GELUActivation": gelu_quotient,
    "GELUTanh": tanh_gelu_quotient,
    "NewGELUActivation": tanh_gelu_quotient,
    "FastGELUActivation": partial(tanh_gelu_quotient, slope=0.7978845608),
    "BloomGelu": partial(tanh_gelu_quotient, slope=0.79788456),
    "QuickGELUActivation": lambda g: torch.sigmoid(1.702 * g),
    "ReLU": lambda g: (g > 0).to(g.dtype),  # 0 at 0, like PyTorch's slope
    "ReLUSquaredActivation": torch.relu,
    "Tanh": tanh_quotient,
}


def register_family(
    model_type: str,
    family: Family,
    *,
    norms: Mapping[str, Norm] | None = None,
    activations: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> None:
    """Add a model family; see docs/families.md.

    Parameters
    ----------
    model_type : `config.model_type` of its models
    family : paths of their modules
    norms : norm classes that `NORMS` lacks, by class name
    activations : act(g) / g of activation classes that `QUOTIENTS` lacks, by class name; exact at g = 0

    Raises
    ------
    CraneError : one of the names has another entry already
    """
    tables: list[tuple[str, dict[str, Any], Mapping[str, Any]]] = [
        ("model type", FAMILIES, {model_type: family}),
        ("norm", NORMS, norms or {}),
        ("activation", QUOTIENTS, activations or {}),
    ]
    for kind, table, rows in tables:
        for name, row in rows.items():
            if name in table and table[name] != row:
                raise CraneError(f"{kind} {name!r} already has another entry; choose another name")
    for _, table, rows in tables:
        table.update(rows)
