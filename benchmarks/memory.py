"""Peak resident memory over what the process held before the work, each contestant in a fresh process.

"The model's own" is the process with the model loaded, the library imported, the corpus made, and one plain forward
pass of a few tokens done, so that what torch sets up once is not counted against whoever comes first.
"""

from __future__ import annotations

import gc

import numpy as np
import torch
from transformers import LlamaForCausalLM

from benchmarks.contest import FLOOR, OURS, RELEASED, Contest
from benchmarks.measurement import MEGABYTE, Measurement, PeakMemory, in_fresh_process, peak_memory
from benchmarks.workloads import Sizes, Workload, random_documents, random_model
from crane_lib.relevance import stream_statistics


def measure_memory(sizes: Sizes) -> list[Measurement]:
    """Contestants on the model of `speed`; then ours on a small model with few documents and with many.

    The memory of A, B and ours stands after the batch of the longest document, but for A's samples, so there are
    fewer documents here than in `speed`.
    """
    documents = sizes.memory.documents
    ours, batches = in_fresh_process(_peak, OURS, sizes.memory, documents, sizes.threads)
    peaks = {
        RELEASED: in_fresh_process(_peak, RELEASED, sizes.memory, documents, sizes.threads)[0],
        FLOOR: in_fresh_process(_peak, FLOOR, sizes.memory, documents, sizes.threads, batches)[0],
        OURS: ours,
    }
    few, many = sizes.flat_counts
    flat = {count: in_fresh_process(_flat_peak, sizes.flat, count, sizes.threads) for count in (few, many)}
    samples = many * 8 * sizes.flat.layers * (4 * sizes.flat.mlp + sizes.flat.hidden)  # of the five sites
    corpus = sum(document.nbytes for document in random_documents(sizes.flat, count=many))
    return [
        Measurement("memory", "before the work, model included", ours.own / MEGABYTE, "MB"),
        *(Measurement("memory", name, peak.added / MEGABYTE, "MB") for name, peak in peaks.items()),
        _quotient(f"{OURS} / {RELEASED}", ours, peaks[RELEASED], goal="<= 0.5"),
        _quotient(f"{OURS} / {FLOOR}", ours, peaks[FLOOR]),
        *(Measurement("memory", f"{count} documents", peak.added / MEGABYTE, "MB") for count, peak in flat.items()),
        Measurement("memory", f"{many} documents, the corpus itself", corpus / MEGABYTE, "MB"),
        Measurement("memory", f"{many} documents, samples in float64, computed", samples / MEGABYTE, "MB"),
        # the heap keeps some holes, more of them the more batches of different shapes have been
        _quotient(f"{many} / {few} documents", flat[many], flat[few], goal="<= 1.5"),
    ]


def _quotient(what: str, above: PeakMemory, below: PeakMemory, *, goal: str = "") -> Measurement:
    return Measurement("memory", what, above.added / max(1, below.added), "times", goal=goal)


_Arrays = list[tuple[np.ndarray, np.ndarray]]  # batches as they can be sent to another process


def _peak(
    name: str, workload: Workload, count: int, threads: int, batches: _Arrays | None = None
) -> tuple[PeakMemory, _Arrays]:
    """Peak of one contestant in this process, and the batches of the run."""
    torch.set_num_threads(threads)
    contest = Contest(random_model(workload), random_documents(workload, count=count), workload.token_budget)
    contest.batches = [(torch.from_numpy(ids), torch.from_numpy(lengths)) for ids, lengths in batches or []]
    _settle(contest.model, workload)
    with peak_memory() as peak:
        {RELEASED: contest.released, FLOOR: contest.floor, OURS: contest.ours}[name]()
    return peak, [(ids.numpy(), lengths.numpy()) for ids, lengths in contest.batches]


def _flat_peak(workload: Workload, count: int, threads: int) -> PeakMemory:
    """Peak of ours in this process; the corpus is there before, and batches are not noted."""
    torch.set_num_threads(threads)
    model, documents = random_model(workload), random_documents(workload, count=count)
    _settle(model, workload)
    with peak_memory() as peak:
        stream_statistics(model, documents, token_budget=workload.token_budget, model_fingerprint="random weights")
    return peak


def _settle(model: LlamaForCausalLM, workload: Workload) -> None:
    """Memory that is set up once, or left over from making the model, does not count."""
    with torch.no_grad():
        model(torch.arange(1, workload.shortest)[None])
    gc.collect()
