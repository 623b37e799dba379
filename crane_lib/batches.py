"""Batches of documents in which the numbers of none depend on its neighbours.

Attention looks back only, so pads on the right change nothing. But some models choose the frequencies of their rotary
positions by the longest document of a batch: longrope (Phi-3, Phi-4) has one set up to a length and one above it.
Batches are split there, and a document gets the frequencies that it gets by itself.

A batch that does not fit in memory is computed again as smaller ones, and so are those after it.
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from crane_lib.errors import CraneError
from crane_lib.wrappers import text_settings

T = TypeVar("T")
Section = Callable[[int], int]  # number of the section that a length lies in; within one, frequencies are the same


def rope_section(model: nn.Module) -> Section:
    """Make a function from the length of a document, pads included, to its section for this model.

    There is one unless the rope type is ``longrope``, which switches at the length of its training. Lengths above the
    model's own are refused under ``dynamic``, where frequencies change with every token and stay for the next text.
    """
    config: Any = text_settings(model)
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


def in_memory(compute: Callable[[], T], *, parts: int, length: int, what: str) -> T | None:
    """Compute a batch of `parts` of `length` tokens; None, after a warning, if it does not fit in memory.

    Raises
    ------
    CraneError : a single part, which `what` names, does not fit
    """
    try:
        return compute()
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and not re.search("can't allocate memory|not enough memory", str(error), re.IGNORECASE):
            raise
    # only here, after the except clause, does the exception no longer hold the failed pass
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if parts == 1:
        raise CraneError(
            f"{what}: its {length} tokens do not fit in memory; lower max_length, switch checkpointing on or load the "
            "model in bfloat16"
        )
    warnings.warn(f"memory ran out: continuing with {length * (parts // 2)} tokens per batch", stacklevel=2)
    return None


def computed_batches(
    batches: Sequence[list[int]], lengths: Sequence[int], compute: Callable[[list[int]], T], *, what: str = "document"
) -> Iterator[tuple[list[int], T]]:
    """Yield batches, longest last, with what `compute` makes of each; without memory it and all after it are halved."""
    waiting = list(batches)
    while waiting:
        batch = waiting[0]
        given: dict[str, Any] = {"parts": len(batch), "length": lengths[batch[-1]], "what": f"{what} {batch[0]}"}
        if (found := in_memory(partial(compute, batch), **given)) is None:
            waiting = [half for each in waiting for half in (each[: len(each) // 2], each[len(each) // 2 :]) if half]
        else:
            yield batch, found
            del waiting[0]


def check_tokens(
    model: nn.Module, documents: Sequence[Sequence[int] | np.ndarray], *, what: str = "document", first: int = 0
) -> None:
    """Refuse documents longer than a model takes, or with tokens that it lacks; they are numbered from `first`."""
    network: Any = model
    rows: int = network.get_input_embeddings().num_embeddings
    most = getattr(text_settings(network), "max_position_embeddings", None)  # a model may have no limit
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
