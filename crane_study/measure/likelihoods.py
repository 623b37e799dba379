"""Log-likelihoods of the same requests under one mask after another.

Batches are made once; each call consists of forward passes only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crane_lib.batches import Section, together
from crane_lib.nll import output_logits

_Pair = tuple[int, list[int], list[int]]  # number of a request, its context and its continuation


@dataclass(frozen=True)
class _Asked:
    """Positions of a forward pass that predict the tokens of the continuations."""

    row: Tensor  # (D,) rows in the batch of the distinct positions that predict a token,
    column: Tensor  # (D,) and their columns
    position: Tensor  # (E,) for every predicted token: the number of its position, below D,
    target: Tensor  # (E,) the token,
    request: Tensor  # (E,) and its request

    @classmethod
    def of(cls, entries: Sequence[tuple[int, int, int, int]]) -> _Asked:
        """Build from (row, column, target, request) of every token."""
        row, column, target, request = torch.tensor(entries).T
        distinct, position = torch.stack([row, column]).unique(dim=1, return_inverse=True)
        return cls(distinct[0], distinct[1], position, target, request)

    def logits(self, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        """Logits (D, V) at the positions, in at least float32, because in bfloat16 answers would tie."""
        return output_logits(model, hidden[self.row.to(hidden.device), self.column.to(hidden.device)])


@dataclass(frozen=True)
class _Whole:
    """Inputs of one forward pass, padded on the right."""

    tokens: Tensor  # (B, T)
    asked: _Asked

    def forward(self, model: PreTrainedModel) -> Iterator[tuple[_Asked, Tensor]]:
        """Yield positions and their logits."""
        hidden = model.base_model(input_ids=self.tokens.to(model.device), use_cache=False).last_hidden_state
        yield self.asked, self.asked.logits(model, hidden)


@dataclass(frozen=True)
class _Shared:
    """Contexts of one length, each with several continuations and computed once for all of them."""

    contexts: Tensor  # (B, C)
    first: _Asked  # first tokens of the continuations
    rests: Tensor  # (O, T) continuations without their last token, padded on the right
    owner: Tensor  # (O,) the row of their context
    later: _Asked | None  # their other tokens; None if every continuation has one token

    def forward(self, model: PreTrainedModel) -> Iterator[tuple[_Asked, Tensor]]:
        """Yield positions and their logits for the contexts, then for the continuations."""
        out = model.base_model(input_ids=self.contexts.to(model.device), use_cache=self.later is not None)
        yield self.first, self.first.logits(model, out.last_hidden_state)
        if self.later is not None:
            past = out.past_key_values
            past.batch_select_indices(self.owner.to(model.device))
            rests = self.rests.to(model.device)
            hidden = model.base_model(input_ids=rests, past_key_values=past, use_cache=True).last_hidden_state
            yield self.later, self.later.logits(model, hidden)


class Requests:
    """Continuations of contexts to be scored.

    A common beginning is computed once: requests with equal inputs (the four letters after one prompt) share one row,
    as in the harness; different answers to one prompt share its keys and values. The output embedding is applied only
    at the positions that predict a continuation, once at each.

    `pairs` has the token ids of each request's context and continuation; `batch_size` is in rows or shared contexts.
    Inputs longer than `max_length`, the model's context length, lose their beginning, as in the harness. A batch lies
    in one `section` of the model (`crane_lib.batches.rope_section`), and so does a prompt with its answers.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[list[int], list[int]]],
        *,
        batch_size: int,
        max_length: int,
        section: Section = lambda _length: 0,
    ) -> None:
        self.count = len(pairs)
        self.cut = sum(len(context) + len(rest) > max_length + 1 for context, rest in pairs)
        by_context: dict[tuple[int, ...], list[_Pair]] = {}
        for number, (context, continuation) in enumerate(pairs):
            by_context.setdefault(tuple(context), []).append((number, context, continuation))
        shared: list[list[_Pair]] = []
        alone: list[list[_Pair]] = []
        for group in by_context.values():
            lengths = {len(context) + len(rest) for _n, context, rest in group}
            fits = max(lengths) <= max_length and len({section(len(group[0][1])), *map(section, lengths)}) == 1
            several = len({tuple(rest[:-1]) for _n, _context, rest in group}) > 1
            (shared if fits and several and group[0][1] else alone).append(group)
        self._batches: list[_Whole | _Shared] = [
            *_whole_batches([pair for group in alone for pair in group], batch_size, max_length, section),
            *_shared_batches(shared, batch_size),
        ]

    @torch.no_grad()
    def log_likelihoods(self, model: PreTrainedModel) -> np.ndarray:
        """Log-likelihood of every continuation under the model in its current state: (requests,) float64, nats."""
        total = torch.zeros(self.count, dtype=torch.float64, device=model.device)
        for asked, logits in self.forward(model):
            position, target = asked.position.to(logits.device), asked.target.to(logits.device)
            found = logits[position, target] - logits.logsumexp(1)[position]
            total.index_add_(0, asked.request.to(total.device), found.double().to(total.device))
        return total.cpu().numpy()

    @torch.no_grad()
    def forward(self, model: PreTrainedModel) -> Iterator[tuple[_Asked, Tensor]]:
        """Run the forward passes; yields the positions of each and their logits (D, V)."""
        for batch in self._batches:
            yield from batch.forward(model)


def _whole_batches(pairs: Sequence[_Pair], batch_size: int, max_length: int, section: Section) -> Iterator[_Whole]:
    """Give requests with equal inputs one row; the longest first, so that memory runs out at once or not at all."""
    asked: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    for number, context, continuation in pairs:
        whole = (context + continuation)[-(max_length + 1) :][:-1]
        asked.setdefault(tuple(whole), []).append((number, continuation))
    inputs = sorted(asked, key=lambda tokens: (-len(tokens), tokens))
    while inputs:
        size = together([len(tokens) for tokens in inputs[:batch_size]], section)
        chosen, inputs = inputs[:size], inputs[size:]
        entries = []
        for row, given in enumerate(chosen):
            for number, continuation in asked[given]:
                # a token is predicted from the position before it
                first = len(given) - len(continuation)
                entries += [(row, first + place, token, number) for place, token in enumerate(continuation)]
        yield _Whole(_padded(chosen), _Asked.of(entries))


def _shared_batches(groups: Sequence[Sequence[_Pair]], batch_size: int) -> Iterator[_Shared]:
    """Combine groups whose contexts have the same length, so that no padding is needed."""
    ordered = sorted(groups, key=lambda group: -len(group[0][1]))
    for _length, same in groupby(ordered, key=lambda group: len(group[0][1])):
        together = list(same)
        for start in range(0, len(together), batch_size):
            yield _shared_batch(together[start : start + batch_size])


def _shared_batch(groups: Sequence[Sequence[_Pair]]) -> _Shared:
    contexts = torch.tensor([group[0][1] for group in groups])
    first, later, owner = [], [], []
    rests: list[tuple[int, ...]] = []
    for row, group in enumerate(groups):
        for number, context, continuation in group:
            first.append((row, len(context) - 1, continuation[0], number))
            if len(continuation) > 1:
                later += [(len(rests), place, token, number) for place, token in enumerate(continuation[1:])]
                rests.append(tuple(continuation[:-1]))
                owner.append(row)
    return _Shared(contexts, _Asked.of(first), _padded(rests), torch.tensor(owner), _Asked.of(later) if later else None)


def _padded(rows: Sequence[tuple[int, ...]]) -> Tensor:
    """Token ids padded on the right; under causal attention no token sees the padding."""
    tokens = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.long)
    for row, given in enumerate(rows):
        tokens[row, : len(given)] = torch.tensor(given)
    return tokens
