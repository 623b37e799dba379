"""Shapes of the study's tables: from tidy rows to what `write_table` writes.

Languages and methods stay codes here, so that the CSV can be read by a program; `write_table` puts them in words.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from crane_lib.specificity import langspec_roles
from crane_study.labels import METRIC_LABELS, ordered_languages, ordered_sets
from crane_study.measure.rows import SET, effects, over_draws, pick, tidy
from crane_study.publish import write_table
from crane_study.uncertainty.bootstrap import Resampled, interval
from crane_study.uncertainty.intervals import (
    difference_intervals,
    drop_intervals,
    langspec_draws,
    langspec_intervals,
    method_means,
)
from crane_study.uncertainty.permutation import p_value_table

__all__ = [
    "facts_table",
    "guesser_table",
    "in_study_order",
    "main_table",
    "matrix_table",
    "objective_correlations",
    "perplexity_table",
    "specificity_table",
    "transfer_table",
    "write_table",
]


def in_study_order(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Rows sorted by these columns: methods, budgets and languages as everywhere in the study, the rest by value."""

    def rank(column: pd.Series) -> pd.Series:
        values = list(column)
        if column.name == "method":
            order = [method for method, _ in ordered_sets((value, "") for value in values)]
        elif column.name == "budget":
            order = sorted(set(values), key=lambda budget: (budget != "", budget != "published", budget))
        elif column.name == "metric":
            order = [*METRIC_LABELS, *sorted(set(values) - set(METRIC_LABELS))]
        elif str(column.name).endswith("language"):
            order = ["", *ordered_languages(value for value in values if value)]
        else:
            order = sorted(set(values))
        position = {value: number for number, value in enumerate(order)}
        return pd.Series([position[value] for value in values], index=column.index)

    return frame.sort_values(columns, key=rank, kind="stable").reset_index(drop=True)


def main_table(langspec: pd.DataFrame, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """LangSpec-F1 of every method and budget, a language and on average.

    Parameters
    ----------
    langspec : LangSpec rows
    rows : tidy result rows, for the share of units that each method masks

    Returns
    -------
    frame with model, selected_on, metric, method, budget, masked_share (of the units of the method's sites, mean over
    languages), one column a language, their mean, and for methods with random draws the lowest and highest of the
    draws' means (elsewhere all three are the same) and the number of draws
    """
    frame = tidy(langspec, needed=[*SET, "masked_language", "metric", "langspec_f1", "random_seed"])
    keys = [*SET, "metric"]
    languages = ordered_languages(frame["masked_language"])
    a_draw = frame.groupby([*keys, "random_seed"], sort=False)["langspec_f1"].mean().reset_index()
    table = over_draws(a_draw, by=keys, value="langspec_f1")
    each = frame.pivot_table(index=keys, columns="masked_language", values="langspec_f1", aggfunc="mean").reset_index()
    table = table.merge(each, on=keys, how="left", validate="one_to_one")
    if rows is not None:
        masked = tidy(rows, needed=[*SET, "masked_language", "masked_share"])
        masked = masked[masked["masked_language"] != ""]
        share = masked.groupby(SET, sort=False)["masked_share"].mean().reset_index()
        table = table.merge(share, on=SET, how="left", validate="many_to_one")
    else:
        table["masked_share"] = np.nan
    table = table[[*keys, "masked_share", *languages, "mean", "lowest", "highest", "draws"]]
    return in_study_order(table, ["model", "selected_on", "metric", "method", "budget"])


def matrix_table(
    rows: pd.DataFrame,
    method: str,
    metric: str,
    *,
    budget: str,
    model: str = "base",
    selected_on: str | None = None,
    column: str = "value",
) -> pd.DataFrame:
    """Masked language against evaluated language for one method and metric, mean over draws.

    Parameters
    ----------
    selected_on : model the sets were chosen on; the masked one unless given
    column : ``value``, ``change`` (masked - unmasked) or ``relative_drop``; with ``value`` the unmasked model first

    Returns
    -------
    frame with masked_language and one column an evaluated language
    """
    selected_on = model if selected_on is None else selected_on
    found = pick(effects(rows, metric=metric), model=model, selected_on=selected_on, method=method, budget=budget)
    wanted = found[["masked_language", "evaluation_language", column]].rename(columns={column: "cell"})
    if column == "value":
        unmasked = found.drop_duplicates("evaluation_language").assign(masked_language="")
        unmasked = unmasked[["masked_language", "evaluation_language", "unmasked"]].rename(columns={"unmasked": "cell"})
        wanted = pd.concat([unmasked, wanted])
    table = wanted.pivot_table(index="masked_language", columns="evaluation_language", values="cell", aggfunc="mean")
    languages = ordered_languages(wanted["evaluation_language"])
    masked = [code for code in ["", *languages] if code in table.index]
    return table.reindex(index=masked, columns=languages).reset_index().rename_axis(columns=None)


def perplexity_table(rows: pd.DataFrame) -> pd.DataFrame:
    """NLL, its rise and perplexity for every mask and language, mean over draws.

    Returns
    -------
    frame with model, selected_on, method, budget, masked_language, evaluation_language, nll and perplexity (mean over
    draws), delta_nll with its lowest and highest over draws, and the number of draws
    """
    keys = [*SET, "masked_language", "evaluation_language"]
    frame = tidy(rows, needed=[*keys, "metric", "value"])
    masked = effects(frame, metric="nll")
    rise = over_draws(masked, by=keys, value="change").rename(columns={"mean": "delta_nll"})
    unmasked = frame[(frame["metric"] == "nll") & (frame["masked_language"] == "")][keys]
    rise = pd.concat([unmasked.assign(delta_nll=0.0, lowest=0.0, highest=0.0, draws=1), rise], ignore_index=True)
    for metric in ("nll", "perplexity"):
        mean = frame[frame["metric"] == metric].groupby(keys, sort=False)["value"].mean().rename(metric).reset_index()
        rise = rise.merge(mean, on=keys, how="left", validate="one_to_one")
    rise = rise[[*keys, "nll", "perplexity", "delta_nll", "lowest", "highest", "draws"]]
    return in_study_order(rise, ["model", "selected_on", "method", "budget", "masked_language", "evaluation_language"])


def _own_and_worst(cost: pd.DataFrame, *, value: str) -> pd.DataFrame:
    """For each mask its value on the masked language (own), and the largest on another language (worst_other)."""
    keys = [*SET, "masked_language"]
    mean = cost.groupby([*keys, "evaluation_language"], sort=False)[value].mean().reset_index()
    mean[value] = mean[value].round(12)  # draws that gain and lose alike cancel, but for rounding
    own = mean[mean["masked_language"] == mean["evaluation_language"]].rename(columns={value: "own"})
    others = mean[mean["masked_language"] != mean["evaluation_language"]].dropna(subset=value)
    worst = others.loc[others.groupby(keys, sort=False)[value].idxmax()]
    worst = worst.rename(columns={value: "worst_other_value", "evaluation_language": "worst_other"})
    return own[[*keys, "own"]].merge(worst[[*keys, "worst_other", "worst_other_value"]], on=keys, how="left")


def specificity_table(rows: pd.DataFrame) -> pd.DataFrame:
    """NLL rise of each set on its own language, on the worst other one, and how many times larger the first is.

    Returns
    -------
    frame with model, selected_on, method, budget, masked_language, own_rise and worst_other_rise (nats a token, means
    over draws), worst_other (its language) and ratio (infinite where no other language's NLL rose)
    """
    table = _own_and_worst(effects(rows, metric="nll"), value="change")
    table = table.rename(columns={"own": "own_rise", "worst_other_value": "worst_other_rise"})
    others = table["worst_other_rise"].clip(lower=0.0)
    table["ratio"] = np.where(others > 0, table["own_rise"] / others.where(others > 0, 1.0), np.inf)
    return in_study_order(table, [*SET, "masked_language"])


def transfer_table(rows: pd.DataFrame, langspec: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """What a mask costs the masked language and the worst other one, on the base and on the chat model.

    Returns
    -------
    frame with method, budget, masked_language, model, selected_on, own_drop and worst_other_drop (shares of the
    unmasked score that are lost; negative: gained), worst_other (its language) and langspec_f1; means over draws
    """
    keys = [*SET, "masked_language"]
    lost = _own_and_worst(effects(rows, metric=metric), value="relative_drop")
    lost = lost.rename(columns={"own": "own_drop", "worst_other_value": "worst_other_drop"})
    scores = pick(tidy(langspec, needed=[*keys, "metric", "langspec_f1"]), metric=metric)
    scores = scores.groupby(keys, sort=False)["langspec_f1"].mean().reset_index()
    table = lost.merge(scores, on=keys, how="left")
    columns = ["method", "budget", "masked_language", "model", "selected_on"]
    table = table[[*columns, "own_drop", "worst_other", "worst_other_drop", "langspec_f1"]]
    return in_study_order(table, columns)


def guesser_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the model and of each guesser that knows nothing, a language; n is the number of questions."""
    guessers = list(dict.fromkeys(frame["guesser"]))
    table = frame.pivot_table(index="language", columns="guesser", values="accuracy")
    table = table.reindex(index=ordered_languages(frame["language"]), columns=guessers).rename_axis(columns=None)
    table.insert(0, "n", frame.groupby("language")["n"].max())
    return table.reset_index()


def facts_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Facts by subject as counted, with the sums of all subjects below."""
    counts = [name for name in frame.columns if name != "subject"]
    total = {"subject": "all", **{name: int(frame[name].sum()) for name in counts}}
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)[["subject", *counts]]


def objective_correlations(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Rank correlation of the relevance under two objectives of the relevance pass.

    Parameters
    ----------
    first, second : language -> mean relevance of every neuron  (L, I)

    Returns
    -------
    frame with language, layer (-1: all layers together) and rank_correlation (Spearman)
    """
    records = []
    for language in ordered_languages(set(first) & set(second)):
        one, other = np.asarray(first[language]), np.asarray(second[language])
        pairs = [(-1, one.ravel(), other.ravel()), *((layer, one[layer], other[layer]) for layer in range(len(one)))]
        for layer, a, b in pairs:
            records.append({"language": language, "layer": layer, "rank_correlation": float(spearmanr(a, b).statistic)})
    return pd.DataFrame(records, columns=["language", "layer", "rank_correlation"])


def draw_means(found: Resampled) -> pd.Series:
    """Mean over languages of LangSpec-F1 as measured, by method, budget and draw."""
    values, _draws = langspec_draws(found)
    return found.masks.assign(value=values).groupby(["selected_on", "method", "budget", "random_seed"])["value"].mean()


def mask_scores(found: Resampled) -> np.ndarray:
    """LangSpec-F1 of every mask as measured, as the mask of each language  (M, K)"""
    return langspec_roles(found.unmasked[None], found.measured)


def p_values(found: Resampled) -> pd.DataFrame:
    """p of every method's mean LangSpec-F1 against random masks (`uncertainty.permutation.p_value_table`)."""
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
