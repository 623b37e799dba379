"""Zero ablation of neuron sets: reversible in memory, or written out as a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.files import atomic
from crane_lib.neurons import NeuronSet
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import Rows, parts_of

_MARK = "_crane_masked"


def _zero_input(indices: Tensor) -> Any:
    """Pre-hook that zeroes these indices of the input's last dimension: the neurons before ``down_proj``."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].index_fill(-1, indices.to(args[0].device), 0.0), *args[1:])

    return hook


def _zero_rows(rows: Rows, indices: Tensor) -> Any:
    """Hook that does to the output what zeroing these rows of the weight would: only the bias is left of them."""
    bias = rows.module.bias
    indices = indices + rows.start

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        chosen = indices.to(output.device)
        if bias is None:
            return output.index_fill(-1, chosen, 0.0)
        kept = bias[chosen].expand(*output.shape[:-1], -1).to(output.dtype)
        return output.index_copy(-1, chosen, kept)

    return hook


@contextmanager
def masked(model: PreTrainedModel, neurons: NeuronSet) -> Iterator[PreTrainedModel]:
    """Zero the neurons (or rows) of a set inside the block; the model leaves as it came.

    No weight is touched, so the exit is exact, also after an exception.

    Raises
    ------
    CraneError : the set does not fit the model, or the model is masked already
    """
    neurons.check(model)
    if getattr(model, _MARK, False):
        raise CraneError("the model is masked already; join the sets and mask once, or leave the outer block first")
    hooks = HookSet()
    setattr(model, _MARK, True)
    try:
        for layer, parts in enumerate(parts_of(model).layers):
            for site, by_layer in neurons.sites.items():
                indices = torch.as_tensor(by_layer[layer], dtype=torch.long, device=model.device)
                if not len(indices):
                    continue
                if site == "neuron":
                    hooks.before(parts.down, _zero_input(indices))
                else:
                    rows = parts.rows[site]
                    hooks.after(rows.module, _zero_rows(rows, indices))
        yield model
    finally:
        hooks.remove()
        delattr(model, _MARK)


@torch.no_grad()
def export_masked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, neurons: NeuronSet, folder: Path) -> None:
    """Write a checkpoint in which the set is zeroed for good, as an ordinary Hugging Face directory.

    A neuron is zeroed as a column of ``down_proj``, a row as a row of its matrix.  `model` leaves as it came.

    Raises
    ------
    CraneError : the set does not fit the model, or `folder` holds something already
    """
    neurons.check(model)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CraneError(f"{folder}: is not empty; name a new directory for the checkpoint")
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        for layer, parts in enumerate(parts_of(model).layers):
            for site, by_layer in neurons.sites.items():
                indices = torch.as_tensor(by_layer[layer], dtype=torch.long, device=model.device)
                weight = parts.rows["down" if site == "neuron" else site].weight()
                saved.append((weight, weight.clone()))
                weight.index_fill_(1 if site == "neuron" else 0, indices, 0.0)
        with atomic(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    finally:
        for weight, before in reversed(saved):
            weight.copy_(before)
