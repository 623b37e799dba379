"""Log-likelihoods of the same requests under one mask after another.

Batches are made once; each call consists of forward passes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crane_lib.batches import Section, in_memory, together
from crane_lib.nll import output_logits

_Pair = tuple[int, list[int], list[int]]  # number of a request, its context and its continuation
_SAVED = 0.1  # least share of the tokens that a beginning common to several contexts must save


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
    """Beginnings of one length, each common to several requests and computed once for all of them."""

    beginnings: Tensor  # (B, C)
    first: _Asked | None  # tokens that follow a beginning directly; None if there are none
    rests: Tensor  # (O, T) what follows in context and continuation, without the last token, padded on the right
    owner: Tensor  # (O,) the row of their beginning
    later: _Asked | None  # the other tokens; None if every continuation is one token after a beginning

    def forward(self, model: PreTrainedModel) -> Iterator[tuple[_Asked, Tensor]]:
        """Yield positions and their logits for the beginnings, then for the rest."""
        out = model.base_model(input_ids=self.beginnings.to(model.device), use_cache=self.later is not None)
        if self.first is not None:
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
    as in the harness; different answers to one prompt share its keys and values, and so do prompts with the same
    paragraph or the same worked examples, where that saves tokens. The output embedding is applied only at the
    positions that predict a continuation, once at each. Where memory runs out, all batches are made again of half the
    size and stay so.

    `pairs` has the token ids of each request's context and continuation; `batch_size` is in rows or contexts.
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
        self._longest = min(max_length, max((len(context) + len(rest) - 1 for context, rest in pairs), default=0))
        self._batch_size = min(batch_size, len(pairs))
        self._made = partial(self._make, pairs, max_length=max_length, section=section)
        self._batches = self._made(self._batch_size)

    @staticmethod
    def _make(
        pairs: Sequence[tuple[list[int], list[int]]], batch_size: int, *, max_length: int, section: Section
    ) -> list[_Whole | _Shared]:
        """Make the batches of the forward passes."""
        by_context: dict[tuple[int, ...], list[_Pair]] = {}
        for number, (context, continuation) in enumerate(pairs):
            by_context.setdefault(tuple(context), []).append((number, context, continuation))

        def fits(group: Sequence[_Pair]) -> bool:
            """Return whether the inputs of a group are whole and in one section, which their beginning is in, too."""
            lengths = {len(context) + len(rest) for _n, context, rest in group}
            return max(lengths) <= max_length and len({*map(section, {_beginning(group), *lengths})}) == 1

        shared: list[list[_Pair]] = []
        alone: list[list[_Pair]] = []
        for group in _groups(list(by_context.values()), batch_size, fits):
            several = len({(tuple(context), tuple(rest[:-1])) for _n, context, rest in group}) > 1
            (shared if several and fits(group) else alone).append(group)
        return [
            *_whole_batches([pair for group in alone for pair in group], batch_size, max_length, section),
            *_shared_batches(shared, batch_size),
        ]

    @torch.no_grad()
    def log_likelihoods(self, model: PreTrainedModel) -> np.ndarray:
        """Log-likelihood of every continuation under the model in its current state: (requests,) float64, nats.

        Raises
        ------
        CraneError : a single request does not fit in memory
        """
        given: dict[str, Any] = {"length": self._longest, "what": "a question with its answers"}
        while (found := in_memory(partial(self._scored, model), parts=self._batch_size, **given)) is None:
            self._batch_size //= 2
            self._batches = self._made(self._batch_size)
        return found

    def _scored(self, model: PreTrainedModel) -> np.ndarray:
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


def _beginning(group: Sequence[_Pair]) -> int:
    """Number of tokens at the beginning that all contexts of a group have in common."""
    columns = zip(*(context for _number, context, _rest in group), strict=False)
    return sum(1 for _column in takewhile(lambda tokens: len({*tokens}) == 1, columns))


def _tokens_computed(group: Sequence[_Pair]) -> int:
    """Tokens that the model reads if the common beginning of a group is computed once."""
    common = _beginning(group)
    return common + sum(map(len, {tuple((context + rest)[common:-1]) for _number, context, rest in group}))


def _groups(
    contexts: Sequence[list[_Pair]], batch_size: int, fits: Callable[[Sequence[_Pair]], bool]
) -> Iterator[list[_Pair]]:
    """Join the requests of at most `batch_size` contexts that share half of their tokens, where that saves some."""
    waiting = sorted(contexts, key=lambda pairs: pairs[0][1])
    while waiting:
        size, together = 1, waiting[0]
        while size < min(batch_size, len(waiting)):
            wider = together + waiting[size]
            if 2 * _beginning(wider) < max(len(context) for _number, context, _rest in wider):
                break
            size, together = size + 1, wider
        chosen, waiting = waiting[:size], waiting[size:]
        apart = sum(map(_tokens_computed, chosen))
        if fits(together) and _tokens_computed(together) <= (1 - _SAVED) * apart:
            yield together
        else:
            yield from chosen


def _shared_batches(groups: Sequence[Sequence[_Pair]], batch_size: int) -> Iterator[_Shared]:
    """Combine groups whose beginnings have the same length, so that no padding is needed."""
    ordered = sorted(groups, key=lambda group: -_beginning(group))
    for common, same in groupby(ordered, key=_beginning):
        batch: list[Sequence[_Pair]] = []
        for group in same:
            if batch and _contexts([*batch, group]) > batch_size:
                yield _shared_batch(batch, common)
                batch = []
            batch.append(group)
        yield _shared_batch(batch, common)


def _contexts(groups: Sequence[Sequence[_Pair]]) -> int:
    return sum(len({tuple(context) for _number, context, _rest in group}) for group in groups)


def _shared_batch(groups: Sequence[Sequence[_Pair]], common: int) -> _Shared:
    first, later, owner = [], [], []
    rests: list[tuple[int, ...]] = []
    for row, group in enumerate(groups):
        rows: dict[tuple[int, ...], int] = {}  # of this beginning's rests
        for number, context, continuation in group:
            rest = tuple((context + continuation)[common:-1])
            if rest and rest not in rows:
                rows[rest] = len(rests)
                rests.append(rest)
                owner.append(row)
            # a token is predicted from the position before it
            for place, token in enumerate(continuation, len(context) - common - 1):
                if place < 0:
                    first.append((row, common - 1, token, number))
                else:
                    later.append((rows[rest], place, token, number))
    beginnings = torch.tensor([group[0][1][:common] for group in groups])
    asked = [_Asked.of(entries) if entries else None for entries in (first, later)]
    return _Shared(beginnings, asked[0], _padded(rests), torch.tensor(owner), asked[1])


def _padded(rows: Sequence[tuple[int, ...]]) -> Tensor:
    """Token ids padded on the right; under causal attention no token sees the padding."""
    tokens = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.long)
    for row, given in enumerate(rows):
        tokens[row, : len(given)] = torch.tensor(given)
    return tokens
