"""LangSpec-F: the share of a mask's damage that falls on the language it was selected for (method, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crane_lib.errors import CraneError

Form = Literal["standard", "released"]
Other = Literal["mean", "sum", "max"]


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
    other: Other = "mean",
    form: Form = "standard",
) -> LangSpec:
    """LangSpec-F of one mask; see `langspec_parts` for the formula and the options.

    Parameters
    ----------
    unmasked, masked : score per task; any nonnegative score of which more is better
    target : task of the masked language

    Raises
    ------
    CraneError : the tasks differ, the target is not among them, or a score is not finite
    """
    if set(unmasked) != set(masked) or target not in unmasked or len(unmasked) < 2:
        raise CraneError(
            f"LangSpec-F1: expected the same two or more tasks with {target!r} among them, "
            f"saw {sorted(unmasked)} and {sorted(masked)}"
        )
    tasks = list(unmasked)
    before, after = (np.array([[scores[task] for task in tasks]], dtype=float) for scores in (unmasked, masked))
    if not np.isfinite([before, after]).all():
        raise CraneError(f"LangSpec-F1: a score is not finite: unmasked {dict(unmasked)}, masked {dict(masked)}")
    parts = langspec_parts(before, after, np.array([tasks.index(target)]), beta=beta, other=other, form=form)
    return LangSpec(*(float(part[0]) for part in parts))


def langspec_parts(
    unmasked: np.ndarray,
    masked: np.ndarray,
    targets: np.ndarray,
    *,
    beta: float = 1.0,
    other: Other = "mean",
    form: Form = "standard",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and LangSpec-F of many masks.

    With d the drop of a task's score (0 for a gain): P = d_target / (d_target + d_others) and
    R = d_target / unmasked_target, both 0 if the target loses nothing.

    Parameters
    ----------
    unmasked, masked : (..., 1 or M, K) scores
    targets : (M,) index of each mask's language on the last axis
    other : aggregate of the drops of the other tasks
    form : ``standard`` is (1 + b^2) P R / (b^2 P + R); ``released`` has the denominator P + b^2 R as in the authors'
        code, so that a large beta weighs precision

    Returns
    -------
    precision, recall and F, (..., M) each; F is NaN where a score is missing
    """
    drops = np.maximum(0.0, unmasked - masked)
    count = drops.shape[-1]
    own = np.arange(count) == np.asarray(targets)[:, None]  # (M, K)
    hit = np.where(own, drops, 0.0).sum(axis=-1)
    whole = np.where(own, unmasked, 0.0).sum(axis=-1)
    rest = np.where(own, 0.0, drops)
    others = rest.max(axis=-1) if other == "max" else rest.sum(axis=-1) / (count - 1 if other == "mean" else 1)
    damaged = (hit > 0) & (whole > 0)
    precision = np.divide(hit, hit + others, out=np.zeros_like(hit), where=hit > 0)
    recall = np.divide(hit, whole, out=np.zeros_like(hit), where=damaged)
    square = beta**2
    below = square * precision + recall if form == "standard" else precision + square * recall
    f = np.divide((1 + square) * precision * recall, below, out=np.zeros_like(hit), where=below > 0)
    return precision, recall, np.where(np.isnan(drops).any(axis=-1), np.nan, f)


def langspec_values(
    unmasked: np.ndarray, masked: np.ndarray, targets: np.ndarray, *, beta: float = 1.0, form: Form = "standard"
) -> np.ndarray:
    """LangSpec-F (..., M) of many masks; the third of `langspec_parts`."""
    return langspec_parts(unmasked, masked, targets, beta=beta, form=form)[2]


def langspec_roles(
    unmasked: np.ndarray, masked: np.ndarray, *, beta: float = 1.0, form: Form = "standard"
) -> np.ndarray:
    """LangSpec-F (M, K) of every mask as if it were the mask of each language.

    Parameters
    ----------
    unmasked, masked : (1 or M, K) and (M, K) scores
    """
    count, languages = masked.shape
    roles = [np.full(count, place) for place in range(languages)]
    return np.stack([langspec_values(unmasked, masked, role, beta=beta, form=form) for role in roles], axis=-1)
