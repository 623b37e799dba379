"""Tables of effects with intervals and p-values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.evaluation.permutation import p_value_table
from crane_lib.evaluation.resampling import Resampled, interval
from crane_lib.evaluation.uncertainty import (
    difference_intervals,
    drop_intervals,
    langspec_draws,
    langspec_intervals,
    langspec_roles,
    method_means,
)
from crane_lib.output.frames import SET, tidy
from crane_lib.output.tables import in_study_order


def draw_means(found: Resampled) -> pd.Series:
    """Mean over languages of LangSpec-F1 as measured, by method, budget and draw."""
    values, _draws = langspec_draws(found)
    return found.masks.assign(value=values).groupby(["selected_on", "method", "budget", "random_seed"])["value"].mean()


def mask_scores(found: Resampled) -> np.ndarray:
    """LangSpec-F1 of every mask as measured, as the mask of each language  (M, K)"""
    return langspec_roles(found.unmasked[None], found.measured)


def p_values(found: Resampled) -> pd.DataFrame:
    """p of every method's mean LangSpec-F1 against random masks (`crane_lib.evaluation.permutation.p_value_table`)."""
    return p_value_table(found.masks, mask_scores(found), languages=found.languages)


def mean_intervals(found: Resampled) -> pd.DataFrame:
    """Interval of every method's mean LangSpec-F1: the columns of `SET`, metric, mean_low and mean_high."""
    sets, _means, draws = method_means(found)
    low, high = interval(draws)
    return sets.assign(metric=found.metric, mean_low=low, mean_high=high)


def with_statistics(table: pd.DataFrame, found: Resampled) -> pd.DataFrame:
    """A main table with the interval of the mean, p and p by Holm."""
    means = mean_intervals(found).drop(columns="metric")
    table = table.merge(means, on=SET, how="left", validate="one_to_one")
    return table.merge(p_values(found).drop(columns="control"), on=SET, how="left", validate="one_to_one")


def interval_table(found: Resampled) -> pd.DataFrame:
    """LangSpec-F1 a method, budget and masked language with its interval; random masks are left out."""
    table = langspec_intervals(found)
    table = table[table["random_seed"] == -1]
    columns = [*SET, "masked_language", "metric", "langspec_f1", "low", "high"]
    return in_study_order(tidy(table)[columns], ["model", "selected_on", "method", "budget", "masked_language"])


def drop_table(found: Resampled) -> pd.DataFrame:
    """What each mask changes in each language, with its interval; random masks are left out."""
    table = drop_intervals(found)
    table = table[table["random_seed"] == -1]
    columns = [*SET, "masked_language", "evaluation_language", "metric", "change", "low", "high"]
    by = ["model", "selected_on", "method", "budget", "masked_language", "evaluation_language"]
    return in_study_order(tidy(table)[columns], by)


def difference_table(found: Resampled, *, of: tuple[str, str]) -> pd.DataFrame:
    """How far a method's mean LangSpec-F1 lies above that of every other method, with the interval."""
    table = difference_intervals(found, of=of)
    return in_study_order(tidy(table), ["model", "selected_on", "method", "budget"])
