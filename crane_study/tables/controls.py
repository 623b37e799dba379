"""Tables of controls: random masks, budgets, variants of the selection rules, and silenced parts of the model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.methods import METHODS, selects_rows
from crane_study.labels import budget_label, method_label
from crane_study.measure.rows import EVERYTHING, pick
from crane_study.tables import in_study_order
from crane_study.uncertainty.bootstrap import Resampled, interval
from crane_study.uncertainty.intervals import draw_means, langspec_draws, mask_parts, role_scores, set_means, set_parts
from crane_study.uncertainty.permutation import holm, p_value_against

# Rules of the ablation table in its order, before any other method of the registry.
_RULES = {
    "kurtosis_raw": "Kurtosis of rows",
    "kurtosis_z": "Kurtosis, z (released: > 1)",
    "kurtosis_margin": "z minus largest other z",
    "kurtosis_share": "Share of |z| among languages",
    "kurtosis_gap": "Mean relative gap of z",
    "kurtosis_top": "Rows of largest kurtosis",
    "kurtosis_bottom": "Rows of smallest kurtosis",
    "kurtosis": "Rows of largest kurtosis, budget",
    "contrast": "Contrast (judged)",
    "contrast_guarded": "Contrast, own relevance above 0",
    "contrast_mean": "Relevance minus mean of the others",
    "contrast_weighted": "Relevance minus weight x largest other",
    "contrast_abs": "Contrast of |relevance|",
    "log_probability_contrast": "Contrast, log-probability objective",
    "log_probability_turned": "The same, sign turned",
    "log_probability_abs": "The same, |relevance|",
    "gradient_contrast": "Contrast of gradient x activation",
    "activation_contrast": "Contrast of activation",
    "lape": "LAPE at the budget",
}


def area(budgets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under scores (..., N) over the log of N rising budgets, divided by its width: 1 for a curve that is 1."""
    logs = np.log(budgets)
    return np.trapezoid(scores, logs, axis=-1) / (logs[-1] - logs[0])


def dose_curves(found: Resampled) -> pd.DataFrame:
    """Mean LangSpec-F1 of every method at every budget (share), with its interval and the range of random draws.

    The mask of all neurons is a method with one budget.
    """
    sets, means, draws = set_means(found)
    low, high = interval(draws)
    table = sets.assign(mean=means, low=low, high=high, metric=found.metric, **set_parts(found))
    table = table[table["method"].isin([*METHODS, "random_global", EVERYTHING])]
    table = table.assign(share=pd.to_numeric(table["budget"], errors="coerce")).dropna(subset="share")
    of_draws = draw_means(found).groupby(["selected_on", "method", "budget"]).agg(["min", "max", "count"])
    of_draws = of_draws.rename(columns={"min": "lowest", "max": "highest", "count": "draws"}).reset_index()
    table = table.merge(of_draws, on=["selected_on", "method", "budget"], validate="one_to_one")
    columns = ["method", "share", "metric", "precision", "recall", "mean", "low", "high", "lowest", "highest", "draws"]
    return table.sort_values(["method", "share"], ignore_index=True)[columns]


def _curves(found: Resampled) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, ...]]]:
    """Budgets (N,), and of each method that has all of them (or masks all neurons, the same at each) its curves.

    These are the mean precision, recall and LangSpec-F1 (N,), and the last under resampling (B, N).
    """
    sets, means, draws = set_means(found)
    share = pd.to_numeric(sets["budget"], errors="coerce")
    budgets = np.array(sorted(share[sets["method"] == "contrast"]))
    parts = set_parts(found)
    curves: dict[str, tuple[np.ndarray, ...]] = {}
    for method in dict.fromkeys(sets["method"]):
        at = [1.0] * len(budgets) if method == EVERYTHING else budgets
        places = [np.flatnonzero((sets["method"] == method) & (share == budget)) for budget in at]
        if len(budgets) > 1 and all(len(place) == 1 for place in places):
            order = np.concatenate(places)
            curves[str(method)] = (parts["precision"][order], parts["recall"][order], means[order], draws[:, order])
    return budgets, curves


def area_table(found: Resampled) -> pd.DataFrame:
    """Area under each method's curves of precision, recall and LangSpec-F1 over the log budget, the last with interval.

    Methods that were not evaluated at every budget are left out.
    """
    budgets, curves = _curves(found)
    lowest, highest = f"{budgets[0]:g}", f"{budgets[-1]:g}"
    records = []
    for method, (*measured, draws) in curves.items():
        under = (*(float(area(budgets, one)) for one in measured), *map(float, interval(area(budgets, draws))))
        records.append((method, found.metric, lowest, highest, *under))
    columns = ["method", "metric", "lowest_budget", "highest_budget", "precision", "recall", "area", "low", "high"]
    return in_study_order(pd.DataFrame(records, columns=columns), ["method"])


def control_table(found: Resampled, *, budget: str) -> pd.DataFrame:
    """Random masks of every kind, everything off, and the methods at the common budget against global random masks."""
    sets, means, draws = set_means(found)
    sets["mean"], (sets["low"], sets["high"]) = means, interval(draws)
    sets = sets.assign(**set_parts(found))
    by_draw = draw_means(found)
    masks, roles = found.masks, role_scores(found)
    random = pick(masks, method="random_global", budget=budget)
    drawn = sets["method"].str.startswith("random")
    shown = (sets["budget"] == budget) & (drawn | sets["method"].isin(METHODS)) | drawn & (sets["budget"] == "any")
    shown |= sets["method"] == EVERYTHING
    records = []
    for row in sets[shown].itertuples():
        scores = by_draw.xs((row.method, row.budget), level=("method", "budget")).to_numpy()
        own = pick(masks, method=row.method, budget=row.budget)
        # The random masks are of neurons: they are no control for rows, nor for themselves.
        other = row.method.startswith("random") or selects_rows(row.method) or row.method == EVERYTHING
        compared = masks.head(0) if other else random
        p = p_value_against(own, compared, roles, languages=found.languages)
        share = own["masked_share"].mean()
        numbers = (row.precision, row.recall, row.mean, row.low, row.high, scores.min(), scores.max(), scores.size, p)
        records.append((row.method, row.budget, found.metric, share, *numbers))
    columns = ["method", "budget", "metric", "masked_share", "precision", "recall", "mean", "low", "high"]
    table = pd.DataFrame(records, columns=[*columns, "lowest", "highest", "draws", "p_value"])
    return in_study_order(table.assign(p_holm=holm(table["p_value"])), ["method", "budget"])


def ablation_table(found: Resampled, *, budget: str) -> pd.DataFrame:
    """Masked share and LangSpec-F1 of every variant of the selection rules, per language.

    Methods with a dose-response curve are shown at the common budget.
    """
    rules = _RULES | {name: method.label for name, method in METHODS.items() if name not in _RULES}
    rules |= {EVERYTHING: method_label(EVERYTHING)}
    values, draws = langspec_draws(found)
    masks = found.masks.assign(value=values, **mask_parts(found))
    shown = masks["method"].isin(rules) & (~masks["method"].isin(METHODS) | (masks["budget"] == budget))
    records = []
    for (method, level), part in masks[shown].groupby(["method", "budget"], sort=False):
        low, high = interval(draws[:, part.index].mean(axis=1))
        by_language = part.set_index("masked_language")
        record = {"rule": rules[str(method)], "level": budget_label(str(level))}
        record |= {f"share_{k}": by_language.loc[k, "masked_share"] for k in found.languages}
        record |= {k: by_language.loc[k, "value"] for k in found.languages}
        record |= {name: part[name].mean() for name in ("precision", "recall")}
        records.append(record | {"mean": part["value"].mean(), "low": float(low), "high": float(high)})
    order = {name: place for place, name in enumerate(rules.values())}
    table = pd.DataFrame(records).sort_values(f"share_{found.languages[0]}", ascending=False, kind="stable")
    return table.sort_values("rule", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def silenced_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores with the MLP or the attention of a layer silenced: part, layer, metric and one column per language."""
    layers = frame["layer"].map(lambda number: "all" if number == -1 else str(number))
    parts = frame["part"].map({"none": "nothing", "mlp": "MLP", "attention": "attention"})
    frame = frame.assign(part=parts, layer=layers.where(frame["part"] != "none", ""))
    keys = ["metric", "part", "layer"]
    table = frame.pivot_table(index=keys, columns="evaluation_language", values="value", sort=False)
    return table.reset_index().rename_axis(columns=None)
