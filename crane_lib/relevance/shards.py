"""A corpus cut into shards that do not depend on how many processes there are, each of which becomes a file.

Shards are always merged in the same order, so one process and many give the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crane_lib.errors import CraneError
from crane_lib.relevance.statistics import Statistics, read_header

SHARD_BATCHES = 32  # most batches in a shard: what a kill may cost
SHARDS = 32  # what a corpus of fewer batches is cut into, so that every process has something to do
VISIBLE_SECONDS = 60.0  # network file systems may show a new file to other machines only after a while


@dataclass(frozen=True)
class Shard:
    """Some documents of a corpus, by their places in it, longest first; shard `number` (from 1) of `total`."""

    number: int
    total: int
    documents: np.ndarray

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"shard-{self.number:05}-of-{self.total:05}.safetensors"


def batch_size(longest: int, *, token_budget: int, most_documents: int) -> int:
    """Documents of a batch whose longest has `longest` tokens, pads counted."""
    return min(max(1, token_budget // longest), most_documents)


def plan_shards(
    lengths: np.ndarray, *, token_budget: int, most_documents: int, shard_batches: int = SHARD_BATCHES
) -> list[Shard]:
    """Cut documents of these lengths (N,), sorted by length, into shards of about as many batches each.

    Parameters
    ----------
    token_budget, most_documents : most tokens and documents of a batch
    shard_batches : most batches of a shard
    """
    order = np.argsort(-lengths, kind="stable")
    starts = [0]
    while starts[-1] < len(order):
        longest = int(lengths[order[starts[-1]]])
        size = batch_size(longest, token_budget=token_budget, most_documents=most_documents)
        starts.append(min(starts[-1] + size, len(order)))
    each = min(max(1, (len(starts) - 1) // SHARDS), shard_batches)
    cuts = [*starts[:-1:each], len(order)]
    total = len(cuts) - 1
    return [Shard(i + 1, total, order[cuts[i] : cuts[i + 1]]) for i in range(total)]


def is_finished(path: Path, *, provenance: dict[str, str], corpus: str) -> bool:
    """Whether a shard's file is whole and holds statistics of these documents, made in this way."""
    try:
        header = read_header(path)
    except CraneError:
        return False
    return bool(header["provenance"] == provenance and header["corpus"] == corpus)


def merged(pieces: Iterator[Statistics]) -> Statistics:
    """Merge the statistics of all shards, in the order in which they come."""
    whole = next(pieces)
    for piece in pieces:
        whole.merge(piece)
    return whole


def read_shards(folder: Path, shards: Sequence[Shard]) -> Iterator[Statistics]:
    """Statistics of all shards, in order.

    Raises
    ------
    CraneError : a file is damaged, or is not there although its process said that it was done
    """
    patience = time.monotonic() + VISIBLE_SECONDS
    for shard in shards:
        path = folder / shard.name
        while not path.is_file():
            if time.monotonic() > patience:
                raise CraneError(
                    f"{path}: another process wrote it, but it is not to be seen from here; the folder must be on a "
                    "disk that all machines share"
                )
            time.sleep(0.2)
        yield Statistics.load(path)
