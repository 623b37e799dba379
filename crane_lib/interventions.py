"""Interventions on neuron sets: zeroed or replaced in memory, reversibly, or exported as a checkpoint.

A unit at the site ``neuron`` is zeroed at the input of the MLP's down projection, an attention head (``head``) at the
input of the attention's output projection. A unit at ``gate``, ``up`` or ``down`` is a row of that weight matrix;
zeroing it leaves the row's bias.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.files import atomic
from crane_lib.neurons import HEAD, NEURON, NeuronSet
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import Rows, parts_of
from crane_lib.wrappers import adapter_settings, causal_model

_MARK = "_crane_masked"
Values = Callable[[int, Tensor, Tensor], Tensor]


@contextmanager
def masked(model: PreTrainedModel, neurons: NeuronSet, *, values: Values | None = None) -> Iterator[PreTrainedModel]:
    """Zero the units of a set inside the block, or replace the activations of neurons or of heads.

    `values` takes a layer, indices (n,) and the activations h there (..., n), and gives what takes their place. Of
    heads these are the inputs of the output projection: as many for each head as it has dimensions.

    Only hooks of this model are added, and removed again, also after an exception. Weights, other models and other
    hooks are not touched. Blocks cannot be nested on one model.

    Raises
    ------
    CraneError : the set does not fit the model, has rows to be replaced, or the model is already masked
    """
    neurons.check(model)
    if values is not None and set(neurons.sites) not in ({NEURON}, {HEAD}):
        seen = sorted(neurons.sites)
        raise CraneError(f"a set of {seen}: only the activations of neurons, or those of heads, are replaced, not rows")
    marked = causal_model(model)
    if getattr(marked, _MARK, False):
        raise CraneError("the model is already masked; join the sets and mask once, or leave the outer block first")
    setattr(marked, _MARK, True)
    try:
        with HookSet() as hooks:
            for number, matrix, by_column, indices in _units(model, neurons):
                if by_column:
                    hooks.before(matrix.module, _replace_input(indices, values and partial(values, number)))
                else:
                    hooks.after(matrix.module, _zero_rows(matrix, indices))
            yield model
    finally:
        delattr(marked, _MARK)


@torch.no_grad()
def export_masked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, neurons: NeuronSet, folder: str | os.PathLike[str]
) -> None:
    """Write a Hugging Face checkpoint with the units of a set zeroed in its weights; `model` is restored.

    A neuron is zeroed as a column of the down projection, a head as columns of the output projection, a row as a row of
    its matrix.

    Raises
    ------
    CraneError : the set does not fit the model, the model has adapters, or `folder` is not empty
    """
    folder = Path(folder)
    neurons.check(model)
    if adapter_settings(model):
        raise CraneError("a checkpoint has no place for an adapter; merge it first (merge_and_unload of peft)")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CraneError(f"{folder}: is not empty; name a new directory for the checkpoint")
    saved: list[tuple[Rows, Tensor]] = []
    try:
        for _number, matrix, by_column, indices in _units(model, neurons):
            saved.append((matrix, matrix.weight().clone()))
            matrix.store(matrix.weight().index_fill(1 if by_column else 0, indices, 0.0))
        with atomic(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    finally:
        for rows, before in reversed(saved):
            rows.store(before)


def _units(model: PreTrainedModel, neurons: NeuronSet) -> Iterator[tuple[int, Rows, bool, Tensor]]:
    """Yield number of the layer, matrix, whether units are its columns, and which ones, where there are any."""
    for number, layer in enumerate(parts_of(model).layers):
        matrices = layer.rows | {NEURON: layer.rows["down"], HEAD: layer.output}
        for site, by_layer in neurons.sites.items():
            if len(by_layer[number]):
                indices = torch.as_tensor(by_layer[number], dtype=torch.long)
                if site == HEAD:  # its columns
                    indices = layer.by_head(torch.arange(layer.output.weight().shape[1]))[indices].flatten()
                yield number, matrices[site], site in (NEURON, HEAD), indices.to(model.device)


def _replace_input(indices: Tensor, values: Callable[[Tensor, Tensor], Tensor] | None) -> Any:
    """Pre-hook that zeroes or replaces these indices of the input's last dimension."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, chosen = args[0], indices.to(args[0].device)
        if values is None:
            return (h.index_fill(-1, chosen, 0.0), *args[1:])
        return (h.index_copy(-1, chosen, values(chosen, h[..., chosen]).to(h)), *args[1:])

    return hook


def _zero_rows(rows: Rows, indices: Tensor) -> Any:
    """Hook with the effect of zeroing these rows of the weight: the output there is the bias."""
    bias = rows.module.bias
    indices = indices + rows.start

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        chosen = indices.to(output.device)
        if bias is None:
            return output.index_fill(-1, chosen, 0.0)
        kept = bias[chosen].expand(*output.shape[:-1], -1).to(output.dtype)
        return output.index_copy(-1, chosen, kept)

    return hook
