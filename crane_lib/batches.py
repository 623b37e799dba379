"""Batches of documents in which the numbers of none depend on its neighbours.

Attention looks back only, so pads on the right change nothing. But some models choose the frequencies of their rotary
positions by the longest document of a batch: longrope (Phi-3, Phi-4) has one set up to a length and one above it.
Batches are split there, and a document gets the frequencies that it gets by itself.

A batch that does not fit in memory is computed again as smaller ones, and so are those after it.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from crane_lib.errors import CraneError

T = TypeVar("T")
Section = Callable[[int], int]  # number of the section that a length lies in; within one, frequencies are the same


def rope_section(model: nn.Module) -> Section:
    """Make a function from the length of a document, pads included, to its section for this model.

    There is one unless the rope type is ``longrope``, which switches at the length of its training. Lengths above the
    model's own are refused under ``dynamic``, where frequencies change with every token and stay for the next text.
    """
    config: Any = getattr(model, "config", None)
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    by_layer_type = [value for value in given.values() if isinstance(value, dict)]
    name, limit, switches = "original_max_position_embeddings", None, set[int]()
    for rope in by_layer_type or [given]:
        kind = rope.get("rope_type", rope.get("type"))
        if kind == "longrope":
            switches.add(rope.get(name) or getattr(config, name, config.max_position_embeddings))
        elif kind == "dynamic":
            limit = config.max_position_embeddings
    in_order = sorted(switches)

    def section(length: int) -> int:
        if limit is not None and length > limit:
            raise CraneError(
                f"a document or answer may have {length} tokens, but above {limit} the frequencies of this model (rope "
                "type dynamic) depend on what it has read before; lower max_length or max_new_tokens"
            )
        return bisect_left(in_order, length)

    return section


def together(lengths: Sequence[int] | np.ndarray, section: Section) -> int:
    """Count the documents at the beginning that are in the section of the first."""
    first = section(int(lengths[0]))
    return next((place for place, length in enumerate(lengths) if section(int(length)) != first), len(lengths))


def token_batches(lengths: Sequence[int], *, token_budget: int, section: Section) -> list[list[int]]:
    """Indices grouped by similar length, in one section, so that a padded batch holds at most `token_budget` tokens."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        length, here = lengths[index], section(lengths[index])  # lengths rise, so it is the width of its batch
        fits = bool(batches) and (len(batches[-1]) + 1) * length <= token_budget
        if fits and section(lengths[batches[-1][0]]) == here:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class TokenBudget:
    """Most tokens of a batch, pads and copies included; about halved when memory runs out."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def tried(self, compute: Callable[[], T], *, parts: int, length: int, what: str) -> T | None:
        """Compute a batch of `parts` of `length` tokens each; None if it did not fit in memory.

        Raises
        ------
        CraneError : a single part does not fit; `what` says which
        """
        try:
            return compute()
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        # only here, after the except clause, does the exception no longer hold the failed pass
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if parts == 1:
            raise CraneError(
                f"{what}: its {length} tokens do not fit in memory; lower max_length, switch checkpointing on or load "
                "the model in bfloat16"
            )
        self.tokens = length * (parts // 2)
        warnings.warn(f"memory ran out: continuing with {self.tokens} tokens per batch", stacklevel=3)
        return None


def _is_out_of_memory(error: Exception) -> bool:
    words = ("can't allocate memory", "not enough memory")
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(found in str(error).lower() for found in words)


def computed_batches(
    lengths: Sequence[int], compute: Callable[[list[int]], T], *, token_budget: int, section: Section
) -> Iterator[tuple[list[int], T]]:
    """Yield batches of documents (`token_batches`) with what `compute` returns, smaller ones if memory runs out."""
    budget = TokenBudget(token_budget)
    waiting = token_batches(lengths, token_budget=budget.tokens, section=section)
    while waiting:
        batch, *rest = waiting
        length, what = lengths[batch[-1]], f"document {batch[0]}"
        found = budget.tried(lambda batch=batch: compute(batch), parts=len(batch), length=length, what=what)
        if found is None:
            left = [index for each in waiting for index in each]
            smaller = token_batches([lengths[i] for i in left], token_budget=budget.tokens, section=section)
            waiting = [[left[place] for place in each] for each in smaller]
        else:
            yield batch, found
            waiting = rest


def check_tokens(
    model: nn.Module, documents: Sequence[Sequence[int] | np.ndarray], *, what: str = "document", first: int = 0
) -> None:
    """Refuse documents longer than a model takes, or with tokens that it lacks; they are numbered from `first`."""
    network: Any = model
    rows: int = network.get_input_embeddings().num_embeddings
    most = getattr(network.config, "max_position_embeddings", None)  # a model may have no limit
    for index, ids in enumerate(map(np.asarray, documents), first):
        if most is not None and len(ids) > most:
            raise CraneError(f"{what} {index}: has {len(ids)} tokens, but the model takes {most}; lower max_length")
        beyond = ids[(ids < 0) | (ids >= rows)]
        if len(beyond):
            raise CraneError(
                f"{what} {index}: has token {beyond[0]}, but the model knows 0 to {rows - 1}; use the tokenizer of the "
                "model, and remove from the text what stands for a token that was added to it"
            )


def pad_batch(documents: Sequence[Sequence[int] | np.ndarray]) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), padded on the right with an arbitrary one, and mask (B, T), True at tokens, of documents."""
    lengths = torch.tensor([len(document) for document in documents])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.from_numpy(np.concatenate([np.asarray(document, dtype=np.int64) for document in documents]))
    return ids, mask
