"""Lookup of the modules that rules and taps attach to, and refusal of modules without a rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crane_lib.errors import CraneError
from crane_lib.relevance.experts import ExpertsPart, experts_of
from crane_lib.relevance.families import FAMILIES, NORMS, QUOTIENTS, Family, Layout
from crane_lib.wrappers import causal_model, check_plain, is_adapter, linear_weight, text_settings

_LINEAR = (nn.Linear, Conv1D, nn.Embedding, nn.Dropout, nn.Identity)  # the ordinary gradient is their rule


@dataclass(frozen=True)
class Rows:
    """Output rows `start` to `stop` of a linear module: a whole matrix, or a part of a fused one."""

    module: Any
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def weight(self) -> Tensor:
        """Part (rows, inputs) of the module's weight."""
        weight = linear_weight(self.module)
        weight = weight.T if isinstance(getattr(self.module, "base_layer", self.module), Conv1D) else weight
        return weight[self.start : self.stop]

    def store(self, weight: Tensor) -> None:
        """Write (rows, inputs) into the module's weight."""
        if isinstance(self.module, ExpertsPart):
            whole, stored = self.module.weight, self.module.stored()
            whole[self.start : self.stop] = weight
            stored.copy_(whole.view(stored.shape))
        else:
            self.weight().copy_(weight)

    def of(self, output: Tensor) -> Tensor:
        """Part (..., rows) of the module's output."""
        return output[..., self.start : self.stop]


@dataclass(frozen=True)
class LayerParts:
    """Modules of one decoder layer.

    `rows` has "gate" (unless ungated), "up" and "down"; `projections` are those of the attention, with their layout;
    `output` is its output projection, whose inputs are those of head 0, then of head 1, and so on of `heads`.
    `experts` is the module of a mixture's experts, whose rows are those of all of them.
    """

    module: nn.Module
    attention: nn.Module
    projections: tuple[tuple[nn.Module, Layout], ...]
    rows: dict[str, Rows]
    activation: nn.Module
    output: Rows
    heads: int
    experts: nn.Module | None = None

    @property
    def gated(self) -> bool:
        """True if the hidden activation is act(gate) * up rather than act(up)."""
        return "gate" in self.rows

    @property
    def down(self) -> nn.Module:
        """Module whose input is the hidden activation."""
        return self.rows["down"].module

    def by_head(self, values: Tensor) -> Tensor:
        """View inputs (..., heads x size) of the output projection as (..., heads, size)."""
        return values.unflatten(-1, (self.heads, -1))


@dataclass(frozen=True)
class ModelParts:
    """Modules of a causal language model, found by the paths of its family."""

    backbone: nn.Module
    embedding: nn.Module
    head: nn.Module
    norms: tuple[nn.Module, ...]
    layers: tuple[LayerParts, ...]
    attention_softcap: float | None
    final_softcap: float | None
    logit_scale: float

    @property
    def widths(self) -> dict[str, int]:
        """Number of units per layer by site: "neuron", "gate" (unless ungated), "up", "down", "head"."""
        rows = self.layers[0].rows
        widths = {"neuron": len(rows["up"]), **{site: len(matrix) for site, matrix in rows.items()}}
        return widths | {"head": self.layers[0].heads}


def family_of(model: nn.Module) -> Family:
    """Look up the family of a causal language model by the `model_type` of its configuration.

    Raises
    ------
    CraneError : the model type has no entry in `FAMILIES`
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in FAMILIES:
        seen = f"model type {model_type!r}" if model_type else f"{type(model).__name__} (it has no model type)"
        if hasattr(getattr(model, "config", None), "text_config"):
            seen += " reads more than text and"
        raise CraneError(
            f"{seen} has no relevance rules; the model types that have them: {', '.join(FAMILIES)}; "
            "docs/families.md shows how to add one"
        )
    return FAMILIES[model_type]


def parts_of(model: nn.Module) -> ModelParts:
    """Find the modules of a model and check that each of them has a rule.

    Raises
    ------
    CraneError : unknown model type, a module that is not at its family's path, or a module without a rule
    """
    model = causal_model(model)
    family, config = family_of(model), text_settings(model)
    whole: Any = model.config
    if getattr(whole, "quantization_config", None):
        raise CraneError(
            f"{type(model).__name__}: its weights are quantised (quantization_config in its configuration), and "
            "relevance and masks need plain ones; load the checkpoint that it was made from, without quantisation"
        )
    if config is not whole:
        warnings.warn(f"{type(model).__name__} reads more than text; only its language model is used", stacklevel=1)

    def find(path: str) -> nn.Module:
        try:
            return model.get_submodule(path)
        except AttributeError as error:
            raise CraneError(
                f"{type(model).__name__} has no module '{path}'; pass the causal language model itself"
            ) from error

    def layer_parts(index: int) -> LayerParts:
        at = f"{family.layers}.{index}"
        block, _, name = (family.experts or "").rpartition(".")
        if name and not hasattr(find(f"{at}.{block}"), name):
            raise CraneError(
                f"layer {index} has no experts (mlp_only_layers, decoder_sparse_step); all layers must be of one width"
            )
        return LayerParts(
            module=find(at),
            attention=find(f"{at}.{family.attention}"),
            projections=tuple((find(f"{at}.{path}"), layout) for path, layout in family.projections.items()),
            rows=_rows(family, lambda path: find(f"{at}.{path}")),
            activation=find(f"{at}.{family.activation}"),
            output=Rows(find(f"{at}.{family.output}"), 0, config.hidden_size),
            heads=config.num_attention_heads,
            experts=find(f"{at}.{family.experts}") if family.experts else None,
        )

    layers, backbone = find(family.layers), find(family.backbone)
    parts = ModelParts(
        backbone=backbone,
        embedding=find(family.embedding),
        head=find(family.head),
        norms=tuple(module for module in backbone.modules() if type(module).__name__ in NORMS),
        layers=tuple(layer_parts(index) for index in range(len(list(layers.children())))),
        attention_softcap=getattr(config, family.attention_softcap or "", None),
        final_softcap=getattr(config, family.final_softcap or "", None),
        logit_scale=getattr(config, family.logit_scale or "", 1.0),
    )
    _check_rules_exist(model, family, parts)
    return parts


def _rows(family: Family, find: Callable[[str], nn.Module]) -> dict[str, Rows]:
    """Rows of an MLP by site; `find` returns the module at a path of its layer."""
    if family.experts:
        experts = experts_of(find(family.experts.rpartition(".")[0]), find(family.experts))
        units = experts.count * experts.width
        rows = {"gate": Rows(experts.projection, 0, units), "up": Rows(experts.projection, units, 2 * units)}
        return rows | {"down": Rows(experts.down, 0, experts.hidden)}
    rows = {}
    for site, path in {"gate": family.gate, "up": family.up, "down": family.down}.items():
        if path is not None:
            module: Any = find(path)
            rows[site] = Rows(module, 0, module.nf if isinstance(module, Conv1D) else module.out_features)
    if family.gate == family.up:
        half = rows["up"].stop // 2
        rows |= {"gate": replace(rows["gate"], stop=half), "up": replace(rows["up"], start=half)}
    return rows


def _check_rules_exist(model: nn.Module, family: Family, parts: ModelParts) -> None:
    activations = {id(layer.activation) for layer in parts.layers}
    base = family.backbone.partition(".")[0] + "."
    adapter = "\n"  # path of one, whose inner modules need no rule of their own
    for path, module in model.named_modules():
        name = type(module).__name__
        outside = path.startswith(base) and not f"{path}.".startswith(f"{family.backbone}.")
        if not path or outside or path.startswith(adapter):
            continue
        if is_adapter(path, module):
            adapter = f"{path}."
            if module is parts.head:
                raise CraneError(f"{path}: an adapter of the output embedding has no rule; merge it first")
            continue
        if next(module.children(), None) is not None or isinstance(module, nn.ModuleList):
            continue
        check_plain(path, module)
        if id(module) in activations:
            if name not in QUOTIENTS:
                raise CraneError(
                    f"{path}: activation {name} has no relevance rule; those that have one: {', '.join(QUOTIENTS)}"
                )
        elif not (
            name in NORMS or isinstance(module, _LINEAR) or name.endswith("RotaryEmbedding") or name in family.linear
        ):
            raise CraneError(
                f"{path}: {name} has no relevance rule; norms that have one: {', '.join(NORMS)}; "
                f"families: {', '.join(FAMILIES)}; docs/families.md shows how to add a rule"
            )


def column_norms(layer: LayerParts) -> Tensor:
    """Euclidean norm of every neuron's column of `down_proj`  (I,), float64."""
    return torch.linalg.vector_norm(layer.rows["down"].weight().detach().cpu().double(), dim=0)


def head_norms(layer: LayerParts) -> Tensor:
    """Root mean square of the norms of a head's columns of the output projection  (heads,), float64."""
    columns = layer.by_head(layer.output.weight().detach().cpu().double())  # (H, heads, size)
    return columns.square().sum(0).mean(-1).sqrt()


def gradient_scale(
    layout: Layout, outputs: int, *, config: Any, query_key: float | None, value: float
) -> Tensor | float | None:
    """Factor on the gradient of an attention projection's output; None if nothing flows back.

    Parameters
    ----------
    outputs : number of the projection's outputs
    query_key, value : factors of queries and keys (None to stop the gradient) and of values

    Returns
    -------
    one factor, or one per output (outputs,) of a fused projection
    """
    if layout in ("query", "key"):
        return query_key
    if layout == "value":
        return value
    if query_key == value:
        return value
    heads = config.num_attention_heads
    query_key = query_key or 0.0
    if layout == "by_head":
        size = outputs // (3 * heads)
        return torch.tensor([query_key, query_key, value]).repeat_interleave(size).repeat(heads)
    values = getattr(config, "num_key_value_heads", None) or heads
    counts = torch.tensor([heads + values, values]) * (outputs // (heads + 2 * values))
    return torch.tensor([query_key, value]).repeat_interleave(counts)
