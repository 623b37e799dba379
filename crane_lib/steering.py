"""Steering towards a language: neurons amplified or added to, vectors added to the residual stream, mean activations.

means = {language: mean_activations(model, documents) for language, documents in tokens.items()}
with steered(model, neurons, add=means["vi"].neurons, strength=2.0): ...
with pushed(model, {12: difference_of_means(means)["vi"][12]}, strength=1.5): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crane_lib.batches import check_tokens
from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.neurons import NEURON, NeuronSet
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import parts_of


@dataclass(frozen=True)
class MeanActivations:
    """Means over the tokens of a language: of h, (L, I), and of the outputs of decoder layers, (L, H); float64."""

    neurons: Tensor
    layers: Tensor


@contextmanager
def steered(
    model: PreTrainedModel,
    neurons: NeuronSet,
    *,
    gain: float | None = None,
    add: Tensor | np.ndarray | None = None,
    strength: float = 1.0,
) -> Iterator[PreTrainedModel]:
    """Change the activations h of a set's neurons at every token inside the block; the model leaves as it came.

    With `gain` h becomes gain * h (0 masks, more than 1 amplifies); with `add` it becomes h + strength * add, where
    `add` (L, I) has a value for every neuron of the model, such as a language's mean activation. The block is one of
    `masked`: neither can be nested in the other on one model.

    Raises
    ------
    CraneError : not one of `gain` and `add`, values that are not finite or of another shape, a set that does not fit
        the model or has rows, or a model that is masked or steered already
    """
    if (gain is None) == (add is None):
        raise CraneError("steering: give either gain, a factor, or add, values (layers, width)")
    factor = strength if gain is None else gain
    if not np.isfinite(factor):
        raise CraneError(f"steering: the factor {factor} is not finite")
    values, parts = None, parts_of(model)
    if add is not None:
        values = factor * _finite(add, (len(parts.layers), parts.widths[NEURON]), "the values to add")

    def changed(layer: int, indices: Tensor, found: Tensor) -> Tensor:
        return found * factor if values is None else found + values[layer].to(found)[indices]

    with masked(model, neurons, values=changed):
        yield model


@contextmanager
def pushed(
    model: PreTrainedModel, vectors: Mapping[int, Tensor | np.ndarray], *, strength: float = 1.0
) -> Iterator[PreTrainedModel]:
    """Add strength * vector (H,) to the output of each named decoder layer, counted from 0, at every token.

    That is the residual stream before the next layer. The model leaves as it came. Blocks may be nested, also with
    `masked` and `steered`: what they add is summed.

    Raises
    ------
    CraneError : no vector, a layer that the model lacks, or a vector that is not finite or of another shape
    """
    layers = parts_of(model).layers
    hidden = model.config.get_text_config().hidden_size
    if not vectors or not np.isfinite(strength):
        raise CraneError(
            f"steering: {len(vectors)} vectors of strength {strength}; give a vector and a finite strength"
        )
    if strange := sorted(set(vectors) - set(range(len(layers)))):
        raise CraneError(f"steering: layer {strange[0]} does not exist; the model has layers 0 to {len(layers) - 1}")
    added = {n: strength * _finite(vector, (hidden,), f"the vector of layer {n}") for n, vector in vectors.items()}
    with HookSet() as hooks:
        for number, vector in added.items():
            hooks.after(layers[number].module, _add_output(vector))
        yield model


@torch.no_grad()
def mean_activations(
    model: PreTrainedModel, documents: Sequence[Sequence[int] | np.ndarray], *, skip: int = 1
) -> MeanActivations:
    """Mean of h and of every decoder layer's output over the tokens of documents, without the first `skip` of each.

    Models put huge activations on the first token, whatever the language.

    Raises
    ------
    CraneError : tokens that the model lacks, or no document of more than `skip` tokens
    """
    check_tokens(model, documents, what="document")
    longer = [document for document in documents if len(document) > skip]
    if not longer:
        raise CraneError(f"steering: no document has more than the {skip} tokens that are skipped; give longer texts")
    parts, sums, tokens = parts_of(model), [torch.zeros(()), torch.zeros(())], 0
    for document in longer:
        ids, seen = torch.as_tensor(np.asarray(document), device=model.device)[None], ([], [])  # type: ignore[var-annotated]
        with HookSet() as hooks:
            for layer in parts.layers:
                hooks.before(layer.down, lambda _module, args, into=seen[0]: into.append(_sum(args[0], skip)))
                hooks.after(layer.module, lambda _m, _args, output, into=seen[1]: into.append(_sum(output, skip)))
            parts.backbone(input_ids=ids, use_cache=False)
        sums, tokens = [total + torch.stack(own) for total, own in zip(sums, seen, strict=True)], tokens + len(document)
    neurons, layers = (total / (tokens - skip * len(longer)) for total in sums)
    return MeanActivations(neurons, layers)


def difference_of_means(means: Mapping[str, MeanActivations]) -> dict[str, Tensor]:
    """Difference of means in the residual stream (DiffMean, Wu et al. 2025): own minus the mean of the others  (L, H).

    Raises
    ------
    CraneError : there are fewer than two languages
    """
    if len(means) < 2:
        raise CraneError(f"difference of means: has the texts of {', '.join(means)}; two languages or more are needed")
    total = sum((one.layers for one in means.values()), torch.zeros(()))
    return {language: one.layers - (total - one.layers) / (len(means) - 1) for language, one in means.items()}


def _sum(output: Any, skip: int) -> Tensor:
    """Sum over the tokens of one document, but the first ones, of a tensor (1, T, n) or the first of a tuple."""
    states = output[0] if isinstance(output, tuple) else output
    return states[0, skip:].double().sum(0).cpu()


def _add_output(vector: Tensor) -> Any:
    """Hook that adds to a layer's output, which is a tensor or the first of a tuple."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + vector.to(output[0]), *output[1:])
        return output + vector.to(output)

    return hook


def _finite(values: Tensor | np.ndarray, shape: tuple[int, ...], what: str) -> Tensor:
    """Tensor of these values, of the wanted shape."""
    found = torch.as_tensor(values)
    if tuple(found.shape) != shape or not torch.isfinite(found).all():
        seen = "are not all finite" if tuple(found.shape) == shape else f"have the shape {tuple(found.shape)}"
        raise CraneError(f"steering: {what} {seen}; expected finite numbers {shape}")
    return found.detach()
