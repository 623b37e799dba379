"""Tables of the effects of masks: scores, their changes, and LangSpec-F1 with intervals and p-values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_study.labels import ordered_languages
from crane_study.measure.rows import EVERYTHING, SET, effects, over_draws, pick, tidy
from crane_study.tables import in_study_order
from crane_study.uncertainty.bootstrap import Resampled
from crane_study.uncertainty.intervals import (
    difference_intervals,
    draw_means,
    drop_intervals,
    langspec_intervals,
    mean_intervals,
    role_scores,
    set_means,
    set_parts,
)
from crane_study.uncertainty.permutation import holm, p_value_table


def main_table(langspec: pd.DataFrame, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """LangSpec-F1 of every method and budget, per language and on average.

    The result rows give masked_share, of the units of the method's sites, mean over languages, as precision and recall
    are. lowest and highest are means of random draws, equal to the mean for methods without them.
    """
    parts = ["precision", "recall"]
    frame = tidy(langspec, needed=[*SET, "masked_language", "metric", "langspec_f1", "random_seed", *parts])
    keys = [*SET, "metric"]
    languages = ordered_languages(frame["masked_language"])
    by_draw = frame.groupby([*keys, "random_seed"], sort=False)["langspec_f1"].mean().reset_index()
    table = over_draws(by_draw, by=keys, value="langspec_f1")
    each = frame.pivot_table(index=keys, columns="masked_language", values="langspec_f1", aggfunc="mean").reset_index()
    table = table.merge(each, on=keys, how="left", validate="one_to_one")
    means = frame.groupby(keys, sort=False)[parts].mean().reset_index()
    table = table.merge(means, on=keys, how="left", validate="one_to_one")
    if rows is None:
        table["masked_share"] = np.nan
    else:
        masked = tidy(rows, needed=[*SET, "masked_language", "masked_share"])
        masked = masked[masked["masked_language"] != ""]
        share = masked.groupby(SET, sort=False)["masked_share"].mean().reset_index()
        table = table.merge(share, on=SET, how="left", validate="many_to_one")
    table = table[[*keys, "masked_share", *parts, *languages, "mean", "lowest", "highest", "draws"]]
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
    """One metric of one method by masked (rows) and evaluated language (columns), mean over draws.

    `column` is value (the unmasked model comes first), change (masked - unmasked) or relative_drop.
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
    """NLL, its rise (delta_nll, with its lowest and highest over draws) and perplexity for every mask and language."""
    keys = [*SET, "masked_language", "evaluation_language"]
    frame = tidy(rows, needed=[*keys, "metric", "value"])
    masked = effects(frame, metric="nll")
    rise = over_draws(masked, by=keys, value="change").rename(columns={"mean": "delta_nll"})
    unmasked = frame[(frame["metric"] == "nll") & (frame["masked_language"] == "")][keys]
    rise = pd.concat([unmasked.assign(delta_nll=0.0, lowest=0.0, highest=0.0, draws=1), rise], ignore_index=True)
    for metric in ("nll", "perplexity"):
        mean = frame[frame["metric"] == metric].groupby(keys, sort=False)["value"].mean().rename(metric).reset_index()
        rise = rise.merge(mean, on=keys, how="left", validate="one_to_one")
    return in_study_order(rise[[*keys, "nll", "perplexity", "delta_nll", "lowest", "highest", "draws"]], keys)


def own_and_worst_other(cost: pd.DataFrame, *, value: str) -> pd.DataFrame:
    """Cost of each mask for the masked language, and the largest for another one (worst_other); means over draws."""
    keys = [*SET, "masked_language"]
    mean = cost.groupby([*keys, "evaluation_language"], sort=False)[value].mean().reset_index()
    mean[value] = mean[value].round(12)  # draws that gain and lose equally cancel, except for rounding
    own = mean[mean["masked_language"] == mean["evaluation_language"]].rename(columns={value: "own"})
    others = mean[mean["masked_language"] != mean["evaluation_language"]].dropna(subset=value)
    worst = others.loc[others.groupby(keys, sort=False)[value].idxmax()]
    worst = worst.rename(columns={value: "worst_other_value", "evaluation_language": "worst_other"})
    return own[[*keys, "own"]].merge(worst[[*keys, "worst_other", "worst_other_value"]], on=keys, how="left")


def specificity_table(rows: pd.DataFrame) -> pd.DataFrame:
    """NLL rise under each set in its own language and in the worst other one, in nats per token, means over draws.

    Their ratio is infinite where no other language's NLL rose.
    """
    table = own_and_worst_other(effects(rows, metric="nll"), value="change")
    table = table.rename(columns={"own": "own_rise", "worst_other_value": "worst_other_rise"})
    others = table["worst_other_rise"].clip(lower=0.0)
    table["ratio"] = np.where(others > 0, table["own_rise"] / others.where(others > 0, 1.0), np.inf)
    return in_study_order(table, [*SET, "masked_language"])


def with_statistics(table: pd.DataFrame, found: Resampled) -> pd.DataFrame:
    """A main table with the interval of the mean, p, and p after Holm's correction."""
    means = mean_intervals(found).drop(columns="metric")
    table = table.merge(means, on=SET, how="left", validate="one_to_one")
    tests = p_value_table(found.masks, role_scores(found), languages=found.languages)
    return table.merge(tests.drop(columns="control"), on=SET, how="left", validate="one_to_one")


def matched_random_table(found: Resampled) -> pd.DataFrame:
    """LangSpec-F1 of every method with random sets of its own size in every layer and site, and of these sets.

    The mask of all neurons, precision and recall (own) come with it.
    """
    tests = p_value_table(found.masks, role_scores(found), languages=found.languages)
    matched = (tests["control"] == "random_like_" + tests["method"]) | (tests["method"] == EVERYTHING)
    tests = tests[matched].drop(columns="p_holm")
    parts = set_means(found)[0].assign(**set_parts(found))[[*SET[1:], "precision", "recall"]]
    means = draw_means(found).groupby([*SET[1:]]).agg(["mean", "min", "max", "count"]).reset_index()
    own = means[[*SET[1:], "mean"]].rename(columns={"mean": "own"})
    names = {"method": "control", "mean": "random_mean", "min": "random_lowest", "max": "random_highest"}
    table = (
        tests.merge(own, on=SET[1:])
        .merge(parts, on=SET[1:])
        .merge(means.rename(columns={**names, "count": "draws"}), how="left")
    )
    table["p_holm"], table["draws"] = holm(table["p_value"]), table["draws"].fillna(0).astype(int)
    columns = ["precision", "recall", "own", "random_mean", "random_lowest", "random_highest"]
    columns += ["draws", "p_value", "p_holm"]
    return in_study_order(table, ["method", "budget"])[["method", "budget", *columns]]


def interval_table(found: Resampled) -> pd.DataFrame:
    """LangSpec-F1 per method, budget and masked language with its interval, without random masks."""
    return _selected(
        langspec_intervals(found),
        [*SET, "masked_language"],
        ["metric", "precision", "recall", "langspec_f1", "low", "high"],
    )


def drop_table(found: Resampled) -> pd.DataFrame:
    """Change of every language under each mask, with its interval, without random masks."""
    keys = [*SET, "masked_language", "evaluation_language"]
    return _selected(drop_intervals(found), keys, ["metric", "change", "low", "high"])


def _selected(table: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Some columns of the rows that are not about a random draw, in the order of the study."""
    return in_study_order(tidy(table[table["random_seed"] == -1])[[*keys, *values]], keys)


def difference_table(found: Resampled, *, of: tuple[str, str]) -> pd.DataFrame:
    """Mean LangSpec-F1 of one method minus that of every other one, with the interval."""
    return in_study_order(tidy(difference_intervals(found, of=of)), SET)
