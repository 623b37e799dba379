"""LangSpec-F1: how much of a mask's damage falls on the language it was meant for (method, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crane_lib.errors import CraneError

Form = Literal["standard", "released"]


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
    form: Form = "standard",
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


def langspec_values(
    unmasked: np.ndarray,
    masked: np.ndarray,
    targets: np.ndarray,
    *,
    beta: float = 1.0,
    form: Form = "standard",
) -> np.ndarray:
    """LangSpec-F of many masks at once, as `langspec` has it (mean of the others).

    Parameters
    ----------
    unmasked, masked : (..., 1 or M, K) scores
    targets : (M,) place of each mask's language on the last axis

    Returns
    -------
    (..., M); NaN where a score is missing
    """
    drops = np.maximum(0.0, unmasked - masked)
    places = np.broadcast_to(targets[:, None], (*drops.shape[:-1], 1))
    hit = np.take_along_axis(drops, places, axis=-1)[..., 0]
    whole = np.take_along_axis(np.broadcast_to(unmasked, drops.shape), places, axis=-1)[..., 0]
    others = (drops.sum(axis=-1) - hit) / (drops.shape[-1] - 1)
    precision = np.divide(hit, hit + others, out=np.zeros_like(hit), where=hit > 0)
    recall = np.divide(hit, whole, out=np.zeros_like(hit), where=whole > 0)
    square = beta**2
    below = square * precision + recall if form == "standard" else precision + square * recall
    found = np.divide((1 + square) * precision * recall, below, out=np.zeros_like(hit), where=below > 0)
    return np.where(np.isnan(drops).any(axis=-1), np.nan, found)


def langspec_roles(
    unmasked: np.ndarray, masked: np.ndarray, *, beta: float = 1.0, form: Form = "standard"
) -> np.ndarray:
    """LangSpec-F of every mask as if it were the mask of each language.

    Parameters
    ----------
    unmasked, masked : (1 or M, K) and (M, K) scores

    Returns
    -------
    (M, K)
    """
    count, languages = masked.shape
    roles = [np.full(count, place) for place in range(languages)]
    return np.stack([langspec_values(unmasked, masked, role, beta=beta, form=form) for role in roles], axis=-1)
