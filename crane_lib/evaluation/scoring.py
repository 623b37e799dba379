"""Log-likelihoods of the same requests, mask after mask: batches are made once, each call is forward passes only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crane_lib.models.head import output_logits


@dataclass(frozen=True)
class _Batch:
    """Inputs of one forward pass, and where in it the tokens asked about are found."""

    tokens: Tensor  # (B, T), padded on the right
    row: Tensor  # (D,) distinct positions that a token is predicted from: their rows of the batch,
    column: Tensor  # (D,) and their columns
    position: Tensor  # (E,) for every token asked about: the number of its position, below D,
    target: Tensor  # (E,) the token,
    request: Tensor  # (E,) and the request it belongs to


class Requests:
    """Continuations of contexts to be scored.

    Requests whose inputs agree (the four letters that may follow one prompt) share one row of one forward pass, as in
    the harness; the output embedding is applied only at the positions of a row that are asked about, once at each.

    Parameters
    ----------
    pairs : (context, continuation) token ids of each request
    batch_size : rows of a forward pass
    max_length : tokens the model takes; longer inputs lose their beginning, as in the harness
    """

    def __init__(self, pairs: Sequence[tuple[list[int], list[int]]], *, batch_size: int, max_length: int) -> None:
        self.count = len(pairs)
        self.cut = sum(len(context) + len(rest) > max_length + 1 for context, rest in pairs)
        asked: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for number, (context, continuation) in enumerate(pairs):
            whole = (context + continuation)[-(max_length + 1) :][:-1]
            asked.setdefault(tuple(whole), []).append((number, continuation))
        # The longest first: memory runs out at once or not at all.
        inputs = sorted(asked, key=lambda tokens: (-len(tokens), tokens))
        self._batches = [
            _make_batch(chosen, [asked[tokens] for tokens in chosen])
            for chosen in (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
        ]

    @torch.no_grad()
    def log_likelihoods(self, model: PreTrainedModel) -> np.ndarray:
        """Log-likelihood of every continuation under the model as it is now.

        Returns
        -------
        (requests,) float64, nats
        """
        total = torch.zeros(self.count, dtype=torch.float64, device=model.device)
        for batch, logits in self.forward(model):
            position, target = batch.position.to(logits.device), batch.target.to(logits.device)
            found = logits[position, target] - logits.logsumexp(1)[position]
            total.index_add_(0, batch.request.to(total.device), found.double().to(total.device))
        return total.cpu().numpy()

    @torch.no_grad()
    def forward(self, model: PreTrainedModel) -> Iterator[tuple[_Batch, Tensor]]:
        """The forward passes alone: each batch and its logits (D, V) at the positions asked about."""
        for batch in self._batches:
            hidden = model.base_model(input_ids=batch.tokens.to(model.device), use_cache=False).last_hidden_state
            # In at least float32: in bfloat16 a log-probability has two digits, and answers tie.
            yield batch, output_logits(model, hidden[batch.row.to(hidden.device), batch.column.to(hidden.device)])


def _make_batch(inputs: Sequence[tuple[int, ...]], asked: Sequence[Sequence[tuple[int, list[int]]]]) -> _Batch:
    """Pad inputs; `asked` holds for each of them the number and the continuation of its requests."""
    tokens = torch.zeros(len(inputs), len(inputs[0]), dtype=torch.long)
    entries = []
    for row, (given, requests) in enumerate(zip(inputs, asked, strict=True)):
        tokens[row, : len(given)] = torch.tensor(given)
        for number, continuation in requests:
            # a token is predicted from the position before it
            first = len(given) - len(continuation)
            entries += [(row, first + place, token, number) for place, token in enumerate(continuation)]
    row, column, target, request = torch.tensor(entries).T
    distinct, position = torch.stack([row, column]).unique(dim=1, return_inverse=True)
    return _Batch(tokens, distinct[0], distinct[1], position, target, request)
