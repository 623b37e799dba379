"""Tables of dose-response curves: LangSpec-F1 at every budget, the area under it and its highest point."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.evaluation.resampling import Resampled, interval
from crane_lib.evaluation.uncertainty import method_means
from crane_lib.output.tables import in_study_order
from crane_lib.output.tables_intervals import draw_means

# Methods that have a set at every budget.
AT_BUDGETS = (
    "kurtosis",
    "contrast",
    "contrast_mean",
    "contrast_abs",
    "gradient_contrast",
    "activation_contrast",
    "lape",
)


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
    table = table[table["method"].isin([*AT_BUDGETS, "random_global"])]
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
