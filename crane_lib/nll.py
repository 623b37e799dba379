"""Negative log-likelihood (NLL) of documents, computed in padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crane_lib.batches import check_tokens, computed_batches, pad_batch, rope_section, token_batches
from crane_lib.errors import CraneError
from crane_lib.precision import widened
from crane_lib.wrappers import causal_model, text_settings

_LOGIT_ROWS = 512  # token positions whose logits exist at once; few enough to stay in a cache


def output_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits (..., V) of hidden states (..., H), in at least float32; scaled (Cohere) or capped (Gemma)."""
    head: Any = model.get_output_embeddings()
    logits = widened(head(hidden))
    config: Any = text_settings(model)
    scale = getattr(config, "logit_scale", None)
    logits = logits if scale is None else logits * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def hidden_nll(model: PreTrainedModel, hidden: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """NLL of every sequence of a batch, from its final hidden states.

    Parameters
    ----------
    hidden : (B, T, H), after the last norm
    tokens, mask : (B, T) ids, and True at tokens

    Returns
    -------
    (B,) float64, nats, summed over the tokens after the first
    """
    real = mask[:, 1:]
    flat, wanted = hidden[:, :-1][real], tokens[:, 1:][real]  # (tokens, H), (tokens,)
    losses = torch.cat(
        [
            torch.nn.functional.cross_entropy(output_logits(model, part), target, reduction="none")
            for part, target in zip(flat.split(_LOGIT_ROWS), wanted.split(_LOGIT_ROWS), strict=True)
        ]
    )
    rows = torch.nonzero(real)[:, 0]
    total = torch.zeros(len(tokens), dtype=torch.float64, device=losses.device)
    return total.index_add_(0, rows, losses.double())


@torch.no_grad()
def document_nll(
    model: PreTrainedModel, documents: Sequence[Sequence[int] | np.ndarray], *, token_budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """Total NLL of every document and the number of tokens predicted in it.

    Returns
    -------
    nll : (documents,) nats, summed over the tokens after the first
    tokens : (documents,) number of them

    Raises
    ------
    CraneError : a document is too short or too long or has unknown tokens, or an NLL is not finite
    """
    lengths = [len(document) for document in documents]
    if not lengths or min(lengths) < 2:
        raise CraneError("perplexity: every document needs at least two tokens; is the corpus empty?")
    check_tokens(model, documents)
    nll = np.zeros(len(documents))

    def batch_nll(batch: list[int]) -> np.ndarray:
        tokens, mask = pad_batch([documents[index] for index in batch])
        tokens, mask = tokens.to(model.device), mask.to(model.device)
        # Pads follow every token, so attention needs no mask; with one, a pad beyond a sliding window would give NaN.
        hidden = causal_model(model).base_model(input_ids=tokens).last_hidden_state
        return hidden_nll(model, hidden, tokens, mask).cpu().numpy()

    batches = token_batches(lengths, token_budget=token_budget, section=rope_section(model))
    for batch, found in computed_batches(batches, lengths, batch_nll):
        nll[batch] = found
    if not np.isfinite(nll).all():
        raise CraneError(f"perplexity: the NLL of document {int(np.flatnonzero(~np.isfinite(nll))[0])} is not finite")
    return nll, np.array(lengths) - 1
