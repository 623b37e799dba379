"""Tables of controls: random masks, variants of the selection rules, and silenced parts of the model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.methods import METHODS, selects_rows
from crane_study.labels import budget_label
from crane_study.measure.rows import pick
from crane_study.tables.effects import draw_means, in_study_order, mask_scores
from crane_study.uncertainty.bootstrap import Resampled, interval
from crane_study.uncertainty.intervals import holm, langspec_draws, method_means
from crane_study.uncertainty.permutation import p_value_against


def area(budgets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under a curve over the logarithm of the budget, divided by its width: 1 for a curve that is 1 throughout.

    Parameters
    ----------
    budgets : (N,) rising; scores : (..., N)
    """
    logs = np.log(budgets)
    return np.trapezoid(scores, logs, axis=-1) / (logs[-1] - logs[0])


def dose_curves(found: Resampled) -> pd.DataFrame:
    """Mean LangSpec-F1 of every method at every budget, with interval and, for random masks, range.

    Returns
    -------
    frame with method, share (the budget), metric, mean, low and high (interval), lowest, highest and draws
    """
    sets, means, draws = method_means(found)
    low, high = interval(draws)
    table = sets.assign(mean=means, low=low, high=high, metric=found.metric)
    table = table[table["method"].isin([*METHODS, "random_global"])]
    table = table.assign(share=pd.to_numeric(table["budget"], errors="coerce")).dropna(subset="share")
    of_draws = draw_means(found).groupby(["selected_on", "method", "budget"]).agg(["min", "max", "count"])
    of_draws = of_draws.rename(columns={"min": "lowest", "max": "highest", "count": "draws"}).reset_index()
    table = table.merge(of_draws, on=["selected_on", "method", "budget"], validate="one_to_one")
    columns = ["method", "share", "metric", "mean", "low", "high", "lowest", "highest", "draws"]
    return table.sort_values(["method", "share"], ignore_index=True)[columns]


def _curves(found: Resampled) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Budgets (N,) and the mean LangSpec-F1 of each method that has all of them, (N,) and under resampling (B, N)."""
    sets, means, draws = method_means(found)
    share = pd.to_numeric(sets["budget"], errors="coerce")
    budgets = np.array(sorted(share[sets["method"] == "contrast"]))
    curves = {}
    for method in dict.fromkeys(sets["method"]):
        places = [np.flatnonzero((sets["method"] == method) & (share == budget)) for budget in budgets]
        if len(budgets) > 1 and all(len(place) == 1 for place in places):
            order = np.concatenate(places)
            curves[str(method)] = means[order], draws[:, order]
    return budgets, curves


def area_table(found: Resampled) -> pd.DataFrame:
    """Area under the curve of LangSpec-F1 over the log budget, a method, with its interval, and the highest point.

    Methods that were not evaluated at every budget have none.

    Returns
    -------
    frame with method, metric, lowest_budget and highest_budget (the range of the curve), area, low and high,
    best_budget, best, best_low and best_high (interval at that budget, as if it had not been chosen)
    """
    budgets, curves = _curves(found)
    records = []
    for method, (means, draws) in curves.items():
        low, high = interval(area(budgets, draws))
        best = int(means.argmax())
        best_low, best_high = interval(draws[:, best])
        records.append(
            {
                "method": method,
                "metric": found.metric,
                "lowest_budget": f"{budgets[0]:g}",
                "highest_budget": f"{budgets[-1]:g}",
                "area": float(area(budgets, means)),
                "low": float(low),
                "high": float(high),
                "best_budget": f"{budgets[best]:g}",
                "best": float(means[best]),
                "best_low": float(best_low),
                "best_high": float(best_high),
            }
        )
    columns = ["method", "metric", "lowest_budget", "highest_budget", "area", "low", "high"]
    columns += ["best_budget", "best", "best_low", "best_high"]
    return in_study_order(pd.DataFrame(records, columns=columns), ["method"])


def best_differences(found: Resampled, *, of: str) -> pd.DataFrame:
    """How far a method's highest point lies above each other method's own, on the same resamples.

    In every resample each method has the budget that is its best there, so the interval includes that choice.  A
    maximum lies higher in a resample than as measured, the more the flatter and noisier its curve.

    Returns
    -------
    frame with method (the other one), metric, difference, low and high
    """
    _budgets, curves = _curves(found)
    records = []
    for method, (means, draws) in curves.items():
        own, drawn = curves[of]
        low, high = interval(drawn.max(axis=1) - draws.max(axis=1))
        records.append((method, found.metric, float(own.max() - means.max()), float(low), float(high)))
    table = pd.DataFrame(records, columns=["method", "metric", "difference", "low", "high"])
    return in_study_order(table[table["method"] != of], ["method"])


# Rules of the ablation table in its order; a method without an entry comes last, under its own label.
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


def control_table(found: Resampled, *, budget: str) -> pd.DataFrame:
    """Random masks of every kind, and the methods at the common budget against the global ones.

    Returns
    -------
    frame with method, budget, metric, masked_share (mean), mean, low, high, lowest, highest, draws, p_value and p_holm
    """
    sets, means, draws = method_means(found)
    low, high = interval(draws)
    by_draw = draw_means(found)
    masks, roles, records = found.masks, mask_scores(found), []
    random = pick(masks, method="random_global", budget=budget)
    for place, row in enumerate(sets.itertuples()):
        drawn = str(row.method).startswith("random")
        if row.budget != budget and not (drawn and row.budget == "any"):
            continue
        if not drawn and row.method not in METHODS:
            continue
        scores = by_draw.xs((row.method, row.budget), level=("method", "budget")).to_numpy()
        own = pick(masks, method=row.method, budget=row.budget)
        rows = selects_rows(str(row.method))  # rows are other units than the neurons of the random masks
        compared = masks.head(0) if drawn or rows else random
        records.append(
            {
                "method": row.method,
                "budget": row.budget,
                "metric": found.metric,
                "masked_share": own["masked_share"].mean(),
                "mean": means[place],
                "low": low[place],
                "high": high[place],
                "lowest": scores.min(),
                "highest": scores.max(),
                "draws": scores.size,
                "p_value": p_value_against(own, compared, roles, languages=found.languages),
            }
        )
    table = pd.DataFrame(records)
    table["p_holm"] = holm(table["p_value"])
    return in_study_order(table, ["method", "budget"])


def ablation_table(found: Resampled, *, budget: str) -> pd.DataFrame:
    """Every variant of the selection rules: what it masks and its LangSpec-F1.

    Parameters
    ----------
    budget : the common one, at which methods of a dose-response curve are shown

    Returns
    -------
    frame with rule, level, one share column a language, LangSpec-F1 a language, their mean, low and high
    """
    rules = _RULES | {name: method.label for name, method in METHODS.items() if name not in _RULES}
    values, draws = langspec_draws(found)
    masks = found.masks.assign(value=values)
    shown = masks["method"].isin(list(rules)) & (~masks["method"].isin(list(METHODS)) | (masks["budget"] == budget))
    records = []
    for (method, level), part in masks[shown].groupby(["method", "budget"], sort=False):
        low, high = interval(draws[:, part.index].mean(axis=1))
        by_language = part.set_index("masked_language")
        record = {"rule": rules[str(method)], "level": budget_label(str(level))}
        record |= {f"share_{k}": by_language.loc[k, "masked_share"] for k in found.languages}
        record |= {k: by_language.loc[k, "value"] for k in found.languages}
        records.append(record | {"mean": part["value"].mean(), "low": float(low), "high": float(high)})
    order = {name: place for place, name in enumerate(rules.values())}
    table = pd.DataFrame(records).sort_values(f"share_{found.languages[0]}", ascending=False, kind="stable")
    return table.sort_values("rule", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def silenced_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores with a layer's MLP or attention silenced: part, layer, metric and one column a language."""
    frame = frame.assign(
        part=frame["part"].map({"none": "nothing", "mlp": "MLP", "attention": "attention"}),
        layer=[
            ("all" if n == -1 else str(n)) if p != "none" else ""
            for p, n in zip(frame["part"], frame["layer"], strict=True)
        ],
    )
    table = frame.pivot_table(
        index=["metric", "part", "layer"], columns="evaluation_language", values="value", sort=False
    )
    return table.reset_index().rename_axis(columns=None)
