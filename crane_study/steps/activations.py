"""Step: activations of single documents, which some methods of selection need."""

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

from crane_lib.batches import pad_batch, rope_section, token_batches
from crane_lib.precision import widened
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import ACTIVATIONS, document_file
from crane_study.data.corpora import tokenized
from crane_study.options import PassOptions


@torch.no_grad()
def document_activations(
    network: PreTrainedModel, documents: Sequence[np.ndarray], *, token_budget: int, skip: int = 0
) -> dict[str, np.ndarray]:
    """Return the mean of h over the tokens of each document but its first `skip`, and its root mean square (size)."""
    parts = parts_of(network)
    shape = (len(documents), len(parts.layers), parts.widths["neuron"])
    found = {name: np.zeros(shape, dtype=np.float32) for name in ("mean", "size")}
    lengths = [len(document) for document in documents]
    for batch in token_batches(lengths, token_budget=token_budget, section=rope_section(network)):
        ids, mask = pad_batch([documents[index] for index in batch])
        mask[:, :skip] = False

        def keep(
            layer: int,
            _module: Any,
            args: tuple[torch.Tensor, ...],
            *,
            batch: list[int] = batch,
            mask: torch.Tensor = mask,
        ) -> None:
            hidden = widened(args[0])  # (B, T, I)
            weight = (mask / mask.sum(1, keepdim=True)).to(hidden)  # of each token in its document
            found["mean"][batch, layer] = torch.einsum("bti,bt->bi", hidden, weight).cpu()
            found["size"][batch, layer] = torch.einsum("bti,bt->bi", hidden.square(), weight).sqrt().cpu()

        with HookSet() as hooks:
            for number, layer in enumerate(parts.layers):
                hooks.before(layer.down, partial(keep, number))
            parts.backbone(input_ids=ids.to(network.device), use_cache=False)
    return found


def make_activations(folder: Path, *, corpus: Path, model: Path, options: PassOptions, documents: int) -> None:
    """Write ``activations.<language>.safetensors``: `document_activations` of the first relevance documents."""
    network, tokenizer = options.loading.load(model)
    frame, given = pd.read_parquet(corpus / "documents.parquet"), {"token_budget": options.token_budget}
    for language in options.languages:
        tokens = tokenized(frame, tokenizer, split="relevance", language=language, max_length=options.max_length)
        found = document_activations(network, tokens[:documents], skip=options.skip_first_tokens, **given)
        save_file(found, document_file(folder, ACTIVATIONS, language))
