"""The library, the released procedure and the floor on one model and one corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from benchmarks.baselines import Batch, ReleasedResult, floor, released
from benchmarks.workloads import PAD
from crane_lib.errors import CraneError
from crane_lib.relevance import Statistics, stream_statistics

OURS, RELEASED, FLOOR = "crane_lib", "A, released procedure", "B, floor"
RELEASED_STORING = "A without checkpointing"


class Contest:
    """The contestants as calls without arguments; what they find stays here to be compared.

    Call `ours` before `floor`, which runs over the batches that `ours` made: same order, same pads.
    """

    def __init__(self, model: LlamaForCausalLM, documents: Sequence[np.ndarray], token_budget: int) -> None:
        self.model, self.documents, self.token_budget = model, documents, token_budget
        self.statistics: Statistics
        self.released_result: ReleasedResult  # as released
        self.exact_result: ReleasedResult  # with the right limit of act(g) / g
        self.floor_objectives: list[float]
        self.batches: list[Batch] = []  # what `ours` made of the documents

    def ours(self) -> None:
        """Statistics of every site, and LAPE's counts. The weights are not hashed: a name is given for them."""
        with _noted_batches(self.model) as self.batches:
            self.statistics = stream_statistics(
                self.model, self.documents, token_budget=self.token_budget, model_fingerprint="random weights"
            )
        if sum(int(lengths.sum()) for _, lengths in self.batches) != self.statistics.tokens:
            raise CraneError(f"{self.token_budget} tokens a batch do not fit in memory here; lower the token budget")

    def released(self) -> None:
        """Baseline A, with checkpointing."""
        self.released_result = released(self.model, self.documents)

    def released_storing(self) -> None:
        """Baseline A without checkpointing, as the public version of the authors' Llama script; act(g) / g exact at 0.

        What agrees with ours to rounding is this one: the released 1e-10 changes the numbers where g is near 0.
        """
        self.exact_result = released(self.model, self.documents, checkpointing=False, exact_limit=True)

    def floor(self) -> None:
        """Baseline B."""
        self.floor_objectives = floor(self.model, self.batches)

    def warm_up(self) -> None:
        """Each contestant on the two shortest documents: kernels are chosen, pools of memory and threads exist."""
        small = Contest(self.model, sorted(self.documents, key=len)[:2], self.token_budget)
        for run in (small.ours, small.released, small.released_storing, small.floor):
            run()

    def disagreement(self) -> dict[str, float]:
        """Distance between the numbers of the contestants, 0 if equal; A with the right limit at 0.

        The row statistics are compared by their mean over documents, in units of their root mean square over all
        documents and rows; kurtosis k by |difference| / (1 + |k|), the worst row; the objectives S by their mean.
        """
        rows, kurtosis, objectives = self.exact_result.rows, self.exact_result.kurtosis, self.exact_result.objectives
        mean = _rows(self.statistics, lambda moments: moments.mean.numpy())
        excess = _rows(self.statistics, lambda moments: moments.excess_kurtosis().numpy())
        return {
            "row statistics": float(np.abs(rows.mean(0) - mean).max() / np.sqrt(np.square(rows).mean())),
            "kurtosis of rows": float((np.abs(kurtosis - excess) / (1 + np.abs(kurtosis))).max()),
            "objectives of A and B": float(
                abs(objectives.mean() - np.mean(self.floor_objectives)) / np.abs(objectives).mean()
            ),
        }

    def stabiliser(self) -> float:
        """Change of A's mean row statistics by the released 1e-10, in units of their root mean square."""
        exact, as_released = self.exact_result.rows, self.released_result.rows
        return float(np.abs(exact.mean(0) - as_released.mean(0)).max() / np.sqrt(np.square(exact).mean()))


def _rows(statistics: Statistics, read: Any) -> np.ndarray:
    """Values of all rows in the order of `ReleasedResult`: layer by layer gate, up, down."""
    return np.concatenate([read(statistics.moments[site]) for site in ("gate", "up", "down")], axis=1).reshape(-1)


@contextmanager
def _noted_batches(model: LlamaForCausalLM) -> Iterator[list[Batch]]:
    """The batches that the model sees inside the block, in a list that grows with them."""
    batches: list[Batch] = []

    def note(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        batches.append((args[0], (args[0] != PAD).sum(1)))

    handle = model.get_input_embeddings().register_forward_pre_hook(note)
    try:
        yield batches
    finally:
        handle.remove()
