"""LangSpec-F1: how much of a mask's damage falls on the language it was meant for (method, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crane_lib.errors import CraneError


@dataclass(frozen=True)
class LangSpec:
    """Precision (share of the damage on the target), recall (share of the target's score lost) and their F."""

    precision: float
    recall: float
    f: float


def langspec(
    unmasked: Mapping[str, float],
    masked: Mapping[str, float],
    *,
    target: str,
    beta: float = 1.0,
    other: Literal["mean", "sum", "max"] = "mean",
    form: Literal["standard", "released"] = "standard",
) -> LangSpec:
    """LangSpec-F of a mask.

    Parameters
    ----------
    unmasked, masked : score a task (any nonnegative score of which more is better)
    target : the task of the masked language
    other : how the drops of the other tasks are put together
    form : ``standard`` is (1 + b^2) P R / (b^2 P + R); ``released`` has P + b^2 R below, as the authors' code does,
        so that a large beta there weighs precision

    Raises
    ------
    CraneError : the tasks differ, the target is not among them, or a score is not finite
    """
    if set(unmasked) != set(masked) or target not in unmasked or len(unmasked) < 2:
        raise CraneError(
            f"LangSpec-F1: expected the same two or more tasks with {target!r} among them, "
            f"saw {sorted(unmasked)} and {sorted(masked)}"
        )
    values = np.array([*unmasked.values(), *masked.values()], dtype=float)
    if not np.isfinite(values).all():
        raise CraneError(f"LangSpec-F1: a score is not finite: unmasked {dict(unmasked)}, masked {dict(masked)}")
    drop = {task: max(0.0, unmasked[task] - masked[task]) for task in unmasked}
    rest = np.array([drop[task] for task in drop if task != target])
    others = float({"mean": rest.mean(), "sum": rest.sum(), "max": rest.max()}[other])
    hit = drop[target]
    precision = hit / (hit + others) if hit > 0 else 0.0
    recall = hit / unmasked[target] if unmasked[target] > 0 else 0.0
    square = beta**2
    below = square * precision + recall if form == "standard" else precision + square * recall
    return LangSpec(precision, recall, (1 + square) * precision * recall / below if below > 0 else 0.0)
