"""Intervals of the effects of masks and of LangSpec-F1, under resampling."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.specificity import langspec_parts, langspec_roles, langspec_values
from crane_study.measure.rows import SET, above_chance
from crane_study.uncertainty.bootstrap import Resampled, interval


def group_means(draws: np.ndarray, groups: Iterable[np.ndarray]) -> np.ndarray:
    """Mean of draws (B, M, ...) over the masks of each group, given by their places: (B, groups, ...)."""
    return np.stack([draws[:, places].mean(axis=1) for places in groups], axis=1)


def _targets(found: Resampled) -> np.ndarray:
    return np.array([found.languages.index(code) for code in found.masks["masked_language"]])


def _above_chance(found: Resampled, *names: str) -> list[np.ndarray]:
    return [above_chance(getattr(found, name), measure=found.metric) for name in names]


def langspec_draws(found: Resampled) -> tuple[np.ndarray, np.ndarray]:
    """LangSpec-F1 of every mask as measured (M,) and under resampling (B, M); accuracies corrected for chance."""
    unmasked, measured, unmasked_draws, draws = _above_chance(found, "unmasked", "measured", "unmasked_draws", "draws")
    targets = _targets(found)
    once = langspec_values(unmasked[None], measured, targets)
    return once, langspec_values(unmasked_draws[:, None], draws, targets)


def mask_parts(found: Resampled) -> dict[str, np.ndarray]:
    """Precision and recall of every mask as measured, (M,) each."""
    unmasked, measured = _above_chance(found, "unmasked", "measured")
    precision, recall, _f = langspec_parts(unmasked[None], measured, _targets(found))
    return {"precision": precision, "recall": recall}


def set_parts(found: Resampled) -> dict[str, np.ndarray]:
    """Mean precision and recall as measured of the groups of `set_means`."""
    groups = found.masks.groupby(SET, sort=False).indices.values()
    return {name: np.array([values[places].mean() for places in groups]) for name, values in mask_parts(found).items()}


def role_scores(found: Resampled) -> np.ndarray:
    """LangSpec-F1 of every mask as measured, as if it were the mask of each language  (M, K)"""
    unmasked, measured = _above_chance(found, "unmasked", "measured")
    return langspec_roles(unmasked[None], measured)


def draw_means(found: Resampled) -> pd.Series:
    """Mean over languages of LangSpec-F1 as measured, by method, budget and random draw."""
    values, _draws = langspec_draws(found)
    return found.masks.assign(value=values).groupby(["selected_on", "method", "budget", "random_seed"])["value"].mean()


def set_means(found: Resampled, by: list[str] = SET) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Mean LangSpec-F1 of the masks that agree in some columns: over languages and random draws unless these differ.

    Returns the columns of each group, and the means as measured (N,) and under resampling (B, N).
    """
    values, draws = langspec_draws(found)
    groups = found.masks.groupby(by, sort=False).indices
    measured = np.array([values[places].mean() for places in groups.values()])
    return pd.DataFrame(list(groups), columns=by), measured, group_means(draws, groups.values())


def by_language(sets: pd.DataFrame, languages: Iterable[str], **values: np.ndarray) -> pd.DataFrame:
    """One row per set and evaluation language, with columns from arrays (sets, K); languages one after the other."""
    parts = [
        sets.assign(evaluation_language=code, **{name: array[:, k] for name, array in values.items()})
        for k, code in enumerate(languages)
    ]
    return pd.concat(parts, ignore_index=True)


def drop_intervals(found: Resampled) -> pd.DataFrame:
    """Change (masked - unmasked) of every language under every mask, with its interval."""
    change = found.measured - found.unmasked
    low, high = interval(found.draws - found.unmasked_draws[:, None])
    masks = found.masks.assign(metric=found.metric)
    return by_language(masks, found.languages, change=change, low=low, high=high)


def set_changes(found: Resampled) -> pd.DataFrame:
    """Change of every language under the masks of each set, mean over draws, with the interval of the paired change.

    Columns: those of `SET`, masked_language, draws, evaluation_language, unmasked, value, change, low, high. Unmasked
    scores may have an axis of masks, as those of open answers have.
    """
    keys = [*SET, "masked_language"]
    groups = found.masks.groupby(keys, sort=False).indices
    unmasked = found.unmasked_draws if found.unmasked_draws.ndim == 3 else found.unmasked_draws[:, None]
    low, high = interval(group_means(found.draws - unmasked, groups.values()))  # (groups, K)
    scores = (np.broadcast_to(found.unmasked, found.measured.shape), found.measured)
    before, after = (group_means(one[None], groups.values())[0] for one in scores)
    sets = pd.DataFrame(list(groups), columns=keys).assign(draws=[len(rows) for rows in groups.values()])
    values = {"unmasked": before, "value": after, "change": after - before, "low": low, "high": high}
    table = by_language(sets, found.languages, **values)
    order = np.arange(len(table)).reshape(len(found.languages), -1).T.ravel()  # the languages of a set in a row
    return table.iloc[order].reset_index(drop=True)


def langspec_intervals(found: Resampled) -> pd.DataFrame:
    """LangSpec-F1 of every mask: the columns of `MASK`, metric, precision, recall, langspec_f1, low and high."""
    values, draws = langspec_draws(found)
    low, high = interval(draws)
    return found.masks.assign(metric=found.metric, **mask_parts(found), langspec_f1=values, low=low, high=high)


def mean_intervals(found: Resampled) -> pd.DataFrame:
    """Interval of the mean LangSpec-F1 of every method: the columns of `SET`, metric, mean_low and mean_high."""
    sets, _means, draws = set_means(found)
    low, high = interval(draws)
    return sets.assign(metric=found.metric, mean_low=low, mean_high=high)


def difference_intervals(found: Resampled, *, of: tuple[str, str], selected_on: str = "base") -> pd.DataFrame:
    """Mean LangSpec-F1 of one method and budget minus that of each other one, on the same resamples.

    The one method's sets were selected on the model `selected_on`.
    """
    sets, means, draws = set_means(found)
    own = (sets["method"] == of[0]) & (sets["budget"] == of[1]) & (sets["selected_on"] == selected_on)
    if own.sum() != 1:
        raise CraneError(f"bootstrap: no masks of {of[0]} at {of[1]} selected on {selected_on!r}")
    place = int(np.flatnonzero(own)[0])
    low, high = interval(draws[:, [place]] - draws)
    table = sets.assign(metric=found.metric, difference=means[place] - means, low=low, high=high)
    return table[~own].reset_index(drop=True)
