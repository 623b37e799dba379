"""Step: activations, relevance and gradients of single documents, which some methods of selection need."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file
from transformers import PreTrainedModel

from crane_lib.batches import computed_batches, pad_batch, rope_section, token_batches
from crane_lib.precision import widened
from crane_lib.relevance import document_relevance
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import ACTIVATIONS, statistics_file
from crane_study.data.corpora import tokenized
from crane_study.options import PassOptions
from crane_study.progress import progress
from crane_study.steps.gates import GateOptions, learned_gates

_INTEGRATED = 4  # documents per language: a pass per layer and step each


@torch.no_grad()
def document_activations(
    network: PreTrainedModel, documents: Sequence[np.ndarray], *, token_budget: int, skip: int = 0
) -> dict[str, np.ndarray]:
    """Return the mean of h over the tokens of each document but its first `skip`, and its root mean square (size)."""
    parts = parts_of(network)
    shape = (len(documents), len(parts.layers), parts.widths["neuron"])
    found = {name: np.zeros(shape, dtype=np.float32) for name in ("mean", "size")}
    lengths = [len(document) for document in documents]

    def run(batch: list[int]) -> bool:
        ids, mask = pad_batch([documents[index] for index in batch])
        mask[:, :skip] = False

        def keep(layer: int, _module: Any, args: tuple[torch.Tensor, ...]) -> None:
            hidden = widened(args[0])  # (B, T, I)
            weight = (mask / mask.sum(1, keepdim=True)).to(hidden)  # of each token in its document
            found["mean"][batch, layer] = torch.einsum("bti,bt->bi", hidden, weight).cpu()
            found["size"][batch, layer] = torch.einsum("bti,bt->bi", hidden.square(), weight).sqrt().cpu()

        with HookSet() as hooks:
            for number, layer in enumerate(parts.layers):
                hooks.before(layer.down, partial(keep, number))
            parts.backbone(input_ids=ids.to(network.device), use_cache=False)
        return True

    batches = token_batches(lengths, token_budget=token_budget, section=rope_section(network))
    for _batch, _done in computed_batches(batches, lengths, run):
        pass
    return found


def document_slopes(
    network: PreTrainedModel, documents: Sequence[np.ndarray], options: PassOptions
) -> dict[str, np.ndarray]:
    """Return the relevance of every neuron in each document, and the sum of dS/dh over its tokens (slope)."""
    given: dict[str, Any] = {
        "objective": options.objectives[0],
        "rule": options.rule,
        "skip_first_tokens": options.skip_first_tokens,
    }
    found = [document_relevance(network, torch.from_numpy(ids)[None], **given) for ids in documents]
    values = {"relevance": [item.neuron[0] for item in found], "slope": [item.slope[0] for item in found]}
    return {name: torch.stack(parts).float().cpu().numpy() for name, parts in values.items()}


def integrated_gradients(
    network: PreTrainedModel, documents: Sequence[np.ndarray], options: PassOptions, *, steps: int = 8
) -> dict[str, np.ndarray]:
    """Return h times the mean gradient while one layer's h goes from 0 to its value, by the midpoint rule.

    Only that layer is scaled; the layers above compute with what they are given.
    """
    layers = [layer.down for layer in parts_of(network).layers]
    given: dict[str, Any] = {
        "objective": options.objectives[0],
        "rule": "gradient",
        "skip_first_tokens": options.skip_first_tokens,
    }
    sums = []
    for ids in documents:
        by_layer = []
        for number, down in enumerate(layers):
            total = torch.zeros(())
            for share in (np.arange(steps) + 0.5) / steps:
                with HookSet() as hooks:  # before the taps, which then read the scaled values
                    hooks.before(down, lambda _module, args, share=share: (args[0] * share, *args[1:]))
                    scaled = document_relevance(network, torch.from_numpy(ids)[None], **given).neuron[0, number]
                total = total + scaled.cpu() / (share * steps)
            by_layer.append(total)
        sums.append(torch.stack(by_layer))
    return {"integrated": torch.stack(sums).float().numpy()}


def make_activations(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    options: PassOptions,
    documents: int,
    kinds: list[str],
    gates: dict[str, Any],
) -> None:
    """Write ``<kind>.<language>.safetensors`` of the first relevance documents, activations always.

    `gates` are the constants of `GateOptions`.
    """
    network, tokenizer = options.loading.load(model)
    frame, given = pd.read_parquet(corpus / "documents.parquet"), {"token_budget": options.token_budget}

    length = {"max_length": options.max_length}
    texts = {k: tokenized(frame, tokenizer, split="relevance", language=k, **length) for k in options.languages}
    if "gates" in kinds:
        _write_gates(folder, network, texts, GateOptions(**gates), token_budget=options.token_budget)
    for language, tokens in texts.items():
        found = document_activations(network, tokens[:documents], skip=options.skip_first_tokens, **given)
        save_file(found, statistics_file(folder, ACTIVATIONS, language))
        if "slopes" in kinds:
            save_file(
                document_slopes(network, tokens[:documents], options), statistics_file(folder, "slopes", language)
            )
        if "integrated" in kinds:
            values = integrated_gradients(network, tokens[:_INTEGRATED], options)
            save_file(values, statistics_file(folder, "integrated", language))


def _write_gates(
    folder: Path,
    network: PreTrainedModel,
    tokens: dict[str, list[np.ndarray]],
    options: GateOptions,
    *,
    token_budget: int,
) -> None:
    """Write ``gates.<language>.safetensors``: how far learned gates are closed, on the beginnings of all documents."""
    with progress("Learning gates", options.steps * len(tokens)) as bar:
        found = learned_gates(network, tokens, options=options, token_budget=token_budget, advance=bar.advance)
    for language, closed in found.items():
        save_file({"closed": closed}, statistics_file(folder, "gates", language))
