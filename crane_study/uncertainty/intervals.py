"""How sure the effects of masks are: intervals under resampling, and Holm's correction of p-values.

The p-values against random masks are those of `crane_study.uncertainty.permutation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.specificity import langspec_values
from crane_study.measure.rows import SET
from crane_study.uncertainty.bootstrap import LEVEL, Resampled, interval, resample_documents, resample_items

__all__ = [
    "difference_intervals",
    "drop_intervals",
    "holm",
    "interval",
    "langspec_draws",
    "langspec_intervals",
    "method_means",
    "resample_documents",
    "resample_items",
]


def langspec_draws(found: Resampled) -> tuple[np.ndarray, np.ndarray]:
    """LangSpec-F1 of every mask as measured (M,) and under resampling (B, M)."""
    targets = np.array([found.languages.index(code) for code in found.masks["masked_language"]])
    return (
        langspec_values(found.unmasked[None], found.measured, targets),
        langspec_values(found.unmasked_draws[:, None], found.draws, targets),
    )


def drop_intervals(found: Resampled, *, level: float = LEVEL) -> pd.DataFrame:
    """What every mask changes in every language, with its interval.

    Returns
    -------
    frame with the columns of `MASK`, evaluation_language, metric, change (masked - unmasked), low and high
    """
    change = found.measured - found.unmasked
    low, high = interval(found.draws - found.unmasked_draws[:, None], level=level)
    parts = [
        found.masks.assign(
            evaluation_language=code,
            metric=found.metric,
            change=change[:, number],
            low=low[:, number],
            high=high[:, number],
        )
        for number, code in enumerate(found.languages)
    ]
    return pd.concat(parts, ignore_index=True)


def langspec_intervals(found: Resampled, *, level: float = LEVEL) -> pd.DataFrame:
    """LangSpec-F1 of every mask with its interval: the columns of `MASK`, metric, langspec_f1, low and high."""
    values, draws = langspec_draws(found)
    low, high = interval(draws, level=level)
    return found.masks.assign(metric=found.metric, langspec_f1=values, low=low, high=high)


def method_means(found: Resampled) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Mean over languages of LangSpec-F1 a method and budget; over the draws, too, for random masks.

    Returns
    -------
    the columns of `SET` (N rows), means as measured (N,) and under resampling (B, N)
    """
    values, draws = langspec_draws(found)
    groups = found.masks.groupby(SET, sort=False).indices
    sets = pd.DataFrame(list(groups), columns=SET)
    places = list(groups.values())
    return (
        sets,
        np.array([values[place].mean() for place in places]),
        np.stack([draws[:, place].mean(axis=1) for place in places], axis=1),
    )


def difference_intervals(
    found: Resampled, *, of: tuple[str, str], selected_on: str = "base", level: float = LEVEL
) -> pd.DataFrame:
    """How far the mean LangSpec-F1 of one method lies above that of each other one, on the same resamples.

    Parameters
    ----------
    of : method and budget
    selected_on : the model that the method's sets were selected on

    Returns
    -------
    the columns of `SET` of the others, metric, difference, low and high

    Raises
    ------
    CraneError : there is no such method
    """
    sets, means, draws = method_means(found)
    own = (sets["method"] == of[0]) & (sets["budget"] == of[1]) & (sets["selected_on"] == selected_on)
    if own.sum() != 1:
        raise CraneError(f"bootstrap: no masks of {of[0]} at {of[1]} selected on {selected_on!r}")
    place = int(np.flatnonzero(own)[0])
    low, high = interval(draws[:, [place]] - draws, level=level)
    table = sets.assign(metric=found.metric, difference=means[place] - means, low=low, high=high)
    return table[~own].reset_index(drop=True)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction over the tests of one table (Holm 1979); NaN are no tests and stay NaN."""
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(p.shape, np.nan)
    tests = np.flatnonzero(np.isfinite(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected
