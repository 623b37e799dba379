"""Log-likelihoods of the same requests, mask after mask: batches are made once, each call is forward passes only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crane_lib.models.precision import widened


@dataclass(frozen=True)
class _Batch:
    """Inputs of one forward pass, and where in its logits the tokens asked about are found."""

    tokens: Tensor  # (B, T), padded on the right
    places: Tensor  # (P,) positions of which logits are wanted
    row: Tensor  # (E,) for every token asked about: its row of the batch,
    column: Tensor  # (E,) its position, as an index of `places`,
    target: Tensor  # (E,) the token,
    request: Tensor  # (E,) and the request it belongs to


class Requests:
    """Continuations of contexts to be scored.

    Requests whose inputs agree (the four letters that may follow one prompt) share one row of one forward pass, and the
    output embedding is applied only at positions that are asked about; the harness does the first, too.

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
            # In at least float32: in bfloat16 a log-probability has two digits, and answers tie.
            asked = widened(logits[batch.row.to(logits.device), batch.column.to(logits.device)])  # (E, V)
            target = batch.target.to(logits.device)[:, None]
            found = asked.gather(1, target)[:, 0] - asked.logsumexp(1)
            total.index_add_(0, batch.request.to(total.device), found.double().to(total.device))
        return total.cpu().numpy()

    @torch.no_grad()
    def forward(self, model: PreTrainedModel) -> Iterator[tuple[_Batch, Tensor]]:
        """The forward passes alone: each batch and its logits, (B, P, V) at the positions asked about."""
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        for batch in self._batches:
            tokens, places = batch.tokens.to(model.device), batch.places.to(model.device)
            if keeps:
                yield batch, model(input_ids=tokens, use_cache=False, logits_to_keep=places).logits
            else:
                logits = model(input_ids=tokens, use_cache=False).logits
                yield batch, logits[:, batch.places.to(logits.device)]


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
    row, place, target, request = torch.tensor(entries).T
    places, column = place.unique(return_inverse=True)
    return _Batch(tokens, places, row, column, target, request)
