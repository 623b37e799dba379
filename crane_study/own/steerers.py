"""Answers of a user's model, steered towards a language, and the vectors that steer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.neurons import NEURON, NeuronSet
from crane_lib.relevance.modules import parts_of
from crane_lib.steering import difference_of_means, mean_activations, pushed, steered
from crane_study.measure.generation import chat_prompt, greedy_answers
from crane_study.uncertainty.overlap import as_neurons

Documents = Sequence[Sequence[int] | np.ndarray]


@dataclass(frozen=True)
class Steerer:
    """One way to steer a model: what is done, the block for a strength, and what it adds by layer, if it adds vectors.

    Vectors of a set (I,) are added to the inputs of down projections, others (H,) to the outputs of layers.
    """

    kind: str
    block: Callable[[float], AbstractContextManager[Any]]
    vectors: Mapping[int, Tensor]


def steer_set(model: PreTrainedModel, neurons: NeuronSet, documents: Documents = ()) -> Steerer:
    """Steer a set: multiples of its mean activation on documents are added; without documents, it is multiplied."""
    neurons, vectors = as_neurons(neurons), {}
    if not documents:
        return Steerer("gain", lambda strength: steered(model, neurons, gain=strength), {})
    means = mean_activations(model, documents).neurons
    for layer, indices in enumerate(neurons.sites[NEURON]):
        if len(indices):
            chosen = torch.as_tensor(np.asarray(indices), dtype=torch.long)
            vectors[layer] = torch.zeros_like(means[layer]).index_copy(0, chosen, means[layer][chosen])
    return Steerer("add", lambda strength: steered(model, neurons, add=means, strength=strength), vectors)


def steer_difference(
    model: PreTrainedModel, documents: Mapping[str, Documents], *, language: str, layer: int | None = None
) -> Steerer:
    """Steer the output of one layer (the middle one) by the difference of means between a language and the others."""
    layers = len(parts_of(model).layers)
    place = layers // 2 if layer is None else layer
    if not 0 <= place < layers:
        raise CraneError(f"--layer {place}: the model has layers 0 to {layers - 1}")
    means = {name: mean_activations(model, own) for name, own in documents.items()}
    vectors = {place: difference_of_means(means)[language][place]}
    return Steerer("difference of means", lambda strength: pushed(model, vectors, strength=strength), vectors)


def steered_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    steerer: Steerer,
    strengths: Sequence[float],
    *,
    max_new_tokens: int,
    chat: bool = False,
    advance: Callable[[int], None] = lambda _done: None,
) -> pd.DataFrame:
    """Greedy answers without steering (strength missing) and at every strength: strength, prompt, answer.

    A prompt is continued; with `chat` it is a user's turn in the model's template.
    """
    ids = [chat_prompt(tokenizer, text) if chat else tokenizer(text)["input_ids"] for text in prompts]
    parts = []
    for strength in (float("nan"), *strengths):
        with nullcontext() if np.isnan(strength) else steerer.block(strength):
            answers = [answer.text for answer in greedy_answers(model, tokenizer, ids, max_new_tokens=max_new_tokens)]
        parts.append(pd.DataFrame({"strength": strength, "prompt": list(prompts), "answer": answers}))
        advance(1)
    return pd.concat(parts, ignore_index=True)
