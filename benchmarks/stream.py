"""Moments of as many units and documents as a study of Llama-2-7B has, from a stream that is made up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from benchmarks.measurement import MEGABYTE, Measurement, in_fresh_process, peak_memory
from benchmarks.workloads import RANDOM_SEED, Sizes
from crane_lib.relevance import Moments

ROWS = 11_008 + 11_008 + 4_096  # of gate, up and down in a layer of Llama-2-7B
BATCH = 8  # documents that arrive together
WATCHED = 64  # units whose samples are kept for SciPy


@dataclass(frozen=True)
class _Streamed:
    seconds: float
    added: int  # bytes
    difference: float


def measure_stream(sizes: Sizes) -> list[Measurement]:
    """Peak memory and seconds of a stream, kurtosis of some units against SciPy, and what samples would take."""
    units, documents = sizes.stream_layers * ROWS, sizes.stream_documents
    found = in_fresh_process(_streamed, units, documents, sizes.threads)
    return [
        Measurement("stream", "units", units, "rows"),
        Measurement("stream", "documents", documents, "documents"),
        Measurement("stream", "peak memory added", found.added / MEGABYTE, "MB", goal="< 200"),
        Measurement("stream", "samples in float64, computed", units * documents * 8 / MEGABYTE, "MB"),
        Measurement("stream", "time, making the stream included", found.seconds, "s"),
        Measurement("stream", "kurtosis, largest difference", found.difference, "relative", goal="<= 1e-8", exact=True),
    ]


def _streamed(units: int, documents: int, threads: int) -> _Streamed:
    torch.set_num_threads(threads)
    Moments((1,)).update(torch.ones(1, 1))  # what torch sets up once is not the stream's
    watched = torch.linspace(0, units - 1, WATCHED).long()
    kept = np.zeros((documents, WATCHED), dtype=np.float32)  # at once: many small pieces would leave holes in the heap
    with peak_memory() as peak:
        start = time.perf_counter()
        moments = Moments((units,))
        for first, batch in _batches(units, documents):
            moments.update(batch)
            kept[first : first + len(batch)] = batch[:, watched].numpy()
        seconds = time.perf_counter() - start
    expected = scipy.stats.kurtosis(kept.astype(np.float64), axis=0, bias=False)
    found = moments.excess_kurtosis()[watched].numpy()
    return _Streamed(seconds, peak.added, float((np.abs(found - expected) / (1 + np.abs(expected))).max()))


def _batches(units: int, documents: int) -> Iterator[tuple[int, Tensor]]:
    """Number of the first document, and float32 (B, units).

    A document is a stretch of one random block, scaled: cheaper than new random numbers.
    """
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    spare = 65_536  # places a stretch may begin at
    block = torch.randn(units + spare, generator=generator)
    batch = torch.empty(BATCH, units)
    for first in range(0, documents, BATCH):
        count = min(BATCH, documents - first)
        starts = torch.randint(spare, (count,), generator=generator)
        factors = torch.rand(count, generator=generator) + 0.5
        for row in range(count):
            torch.mul(block[starts[row] : starts[row] + units], factors[row], out=batch[row])
        yield first, batch[:count]
