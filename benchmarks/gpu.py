"""Tokens a second on a GPU, for a Llama-2-7B with random weights in bfloat16."""

from __future__ import annotations

import dataclasses

import torch
from transformers import LlamaForCausalLM

from benchmarks.contest import FLOOR, OURS, RELEASED, Contest
from benchmarks.measurement import Measurement, alternate, skipped, spread, timed
from benchmarks.workloads import Sizes, Workload, random_documents, random_model

SIDE = 8192  # of the square matrices whose product gives the peak
PRODUCTS = 20  # timed together
RELEASED_DOCUMENTS = 2  # A takes one at a time: two are enough to know its pace
STUDY_DOCUMENTS = 3 * 5_000


def measure_gpu(sizes: Sizes) -> list[Measurement]:
    """Contestants at each document length; what share of the matrix peak ours reaches; the time of a whole study.

    Ours makes no logits, so its operations are those of the layers alone: two a weight and token forward and two
    backward (to the activations), and attention, of which half is masked. At least these are needed, so the share is
    that of useful work.
    """
    if not torch.cuda.is_available():
        return skipped("gpu", "torch sees no CUDA GPU")
    peak = _matrix_peak(sizes.rounds)
    found = [spread("gpu", "matrix peak, bfloat16", [rate / 1e12 for rate in peak], "TFLOP/s")]
    model = random_model(sizes.gpu, device="cuda", dtype=torch.bfloat16)
    for length in sizes.gpu_lengths:
        found += _measure_length(model, sizes, length, peak=max(peak))
    return found


def _measure_length(model: LlamaForCausalLM, sizes: Sizes, length: int, *, peak: float) -> list[Measurement]:
    documents = random_documents(
        dataclasses.replace(sizes.gpu, shortest=length, longest=length, documents=sizes.gpu.documents * 2048 // length)
    )
    contest = Contest(model, documents, sizes.gpu.token_budget)
    few = Contest(model, documents[:RELEASED_DOCUMENTS], sizes.gpu.token_budget)
    tokens = {OURS: length * len(documents), FLOOR: length * len(documents), RELEASED: length * len(few.documents)}
    turn = {OURS: contest.ours, RELEASED: few.released, FLOOR: contest.floor}
    alternate([turn])  # kernels are chosen, pools of memory exist
    rounds = alternate([turn] * sizes.rounds)
    paces = {name: [tokens[name] / seconds[name] for seconds in rounds] for name in turn}
    work = _operations_a_token(model, sizes.gpu, length)
    longest = length == max(sizes.gpu_lengths)
    name = f"{length} tokens"
    return [
        *(spread("gpu", f"{name}, {who}", pace, "tokens/s") for who, pace in paces.items()),
        spread(
            "gpu",
            f"{name}, share of the peak",
            [100 * pace * work / peak for pace in paces[OURS]],
            "%",
            goal=">= 40" if longest else "",
        ),
        spread(
            "gpu",
            f"{name}, {STUDY_DOCUMENTS} documents",
            [STUDY_DOCUMENTS * length / pace / 60 for pace in paces[OURS]],
            "min",
            goal="<= 15" if longest else "",
        ),
    ]


def _operations_a_token(model: LlamaForCausalLM, workload: Workload, length: int) -> float:
    """Floating-point operations, two a multiplication and addition, of a forward and a backward pass."""
    weights = sum(weight.numel() for weight in model.model.layers.parameters() if weight.ndim == 2)
    # forward: two products of length x length x hidden, causal; backward: four of them
    attention = 6 * workload.layers * length * workload.hidden
    return 4 * weights + attention


def _matrix_peak(rounds: int) -> list[float]:
    """Operations a second of a large square product in bfloat16."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def products() -> None:
        for _ in range(PRODUCTS):
            a @ b

    products()
    return [2 * SIDE**3 * PRODUCTS / timed(products) for _ in range(rounds)]
