"""Tables of effects with intervals and p-values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.evaluation.resampling import Resampled, interval
from crane_lib.evaluation.uncertainty import (
    difference_intervals,
    drop_intervals,
    holm,
    langspec_draws,
    langspec_intervals,
    method_means,
    random_p_value,
)
from crane_lib.output.frames import SET, tidy
from crane_lib.output.tables import in_study_order

ROW_RULES = "kurtosis"  # these rules select rows, not neurons


def _control(method: str, budget: str, sets: set[tuple[str, str]]) -> str:
    """The random masks that a method is held against: those matched to it, else neuron masks of the same budget."""
    matched = f"random_like_{method}"
    if (matched, budget) in sets:
        return matched
    if not method.startswith(ROW_RULES):
        for other in ("random_like_contrast", "random_global"):
            if (other, budget) in sets:
                return other
    return ""


def draw_means(found: Resampled) -> pd.Series:
    """Mean over languages of LangSpec-F1 as measured, by method, budget and draw."""
    values, _draws = langspec_draws(found)
    return found.masks.assign(value=values).groupby(["selected_on", "method", "budget", "random_seed"])["value"].mean()


def p_values(found: Resampled) -> pd.DataFrame:
    """p of every method's mean LangSpec-F1 against random masks, with Holm's correction over the methods.

    Returns
    -------
    frame with the columns of `SET`, control (the random masks), p_value and p_holm; missing where no random masks of
    the same kind and budget were evaluated
    """
    means = draw_means(found)
    sets = found.masks[SET].drop_duplicates()
    sets = sets[~sets["method"].str.startswith("random")].reset_index(drop=True)
    controls, p = [], []
    for row in sets.itertuples():
        known = {(m, b) for on, m, b, _ in means.index if on == row.selected_on}
        control = _control(str(row.method), str(row.budget), known)
        random = means.loc[(row.selected_on, control, row.budget)].to_numpy() if control else np.empty(0)
        own = float(means.loc[(row.selected_on, row.method, row.budget)].iloc[0])
        controls.append(control)
        p.append(random_p_value(own, random))
    return sets.assign(control=controls, p_value=p, p_holm=holm(p))


def with_statistics(table: pd.DataFrame, found: Resampled) -> pd.DataFrame:
    """A main table with the interval of the mean, p and p by Holm."""
    sets, _means, draws = method_means(found)
    low, high = interval(draws)
    table = table.merge(sets.assign(mean_low=low, mean_high=high), on=SET, how="left", validate="one_to_one")
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
