"""Tables with intervals, p-values and areas under dose-response curves."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.evaluation.uncertainty import (
    Resampled,
    difference_intervals,
    drop_intervals,
    holm,
    interval,
    langspec_draws,
    langspec_intervals,
    method_means,
    random_p_value,
)
from crane_lib.output.frames import SET, pick, tidy
from crane_lib.output.style import budget_label
from crane_lib.output.tables import _sorted

ROW_RULES = "kurtosis"  # these rules select rows, not neurons
# Rules of the ablation table by code, in its order.
RULES = {
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
    "log_probability_contrast": "Contrast, log-probability seed",
    "log_probability_turned": "The same, sign turned",
    "log_probability_abs": "The same, |relevance|",
    "gradient_contrast": "Contrast of gradient x activation",
    "activation_contrast": "Contrast of activation",
    "lape": "LAPE at the budget",
}
_AT_BUDGETS = (
    "kurtosis",
    "contrast",
    "contrast_mean",
    "contrast_abs",
    "gradient_contrast",
    "activation_contrast",
    "lape",
)


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


def _draw_means(found: Resampled) -> pd.Series:
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
    means = _draw_means(found)
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
    return _sorted(tidy(table)[columns], ["model", "selected_on", "method", "budget", "masked_language"])


def drop_table(found: Resampled) -> pd.DataFrame:
    """What each mask changes in each language, with its interval; random masks are left out."""
    table = drop_intervals(found)
    table = table[table["random_seed"] == -1]
    columns = [*SET, "masked_language", "evaluation_language", "metric", "change", "low", "high"]
    by = ["model", "selected_on", "method", "budget", "masked_language", "evaluation_language"]
    return _sorted(tidy(table)[columns], by)


def difference_table(found: Resampled, *, of: tuple[str, str]) -> pd.DataFrame:
    """How far a method's mean LangSpec-F1 lies above that of every other method, with the interval."""
    table = difference_intervals(found, of=of)
    return _sorted(tidy(table), ["model", "selected_on", "method", "budget"])


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
    table = table[table["method"].isin([*_AT_BUDGETS, "random_global"])]
    table = table.assign(share=pd.to_numeric(table["budget"], errors="coerce")).dropna(subset="share")
    of_draws = _draw_means(found).groupby(["selected_on", "method", "budget"]).agg(["min", "max", "count"])
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
    frame with method, metric, area, low and high, best_budget, best, best_low and best_high
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
                "area": float(area(budgets, means)),
                "low": float(low),
                "high": float(high),
                "best_budget": f"{budgets[best]:g}",
                "best": float(means[best]),
                "best_low": float(best_low),
                "best_high": float(best_high),
            }
        )
    columns = ["method", "metric", "area", "low", "high", "best_budget", "best", "best_low", "best_high"]
    return _sorted(pd.DataFrame(records, columns=columns), ["method"])


def best_differences(found: Resampled, *, of: str) -> pd.DataFrame:
    """How far a method's highest point lies above each other method's own, on the same resamples.

    Returns
    -------
    frame with method (the other one), metric, difference, low and high
    """
    _budgets, curves = _curves(found)
    records = []
    for method, (means, draws) in curves.items():
        own, drawn = curves[of]
        low, high = interval(drawn[:, own.argmax()] - draws[:, means.argmax()])
        records.append((method, found.metric, float(own.max() - means.max()), float(low), float(high)))
    table = pd.DataFrame(records, columns=["method", "metric", "difference", "low", "high"])
    return _sorted(table[table["method"] != of], ["method"])


def control_table(found: Resampled, *, budget: str) -> pd.DataFrame:
    """Random masks of every kind, and the methods at the common budget against the global ones.

    Returns
    -------
    frame with method, budget, metric, masked_share (mean), mean, low, high, lowest, highest, draws, p_value and p_holm
    """
    sets, means, draws = method_means(found)
    low, high = interval(draws)
    by_draw = _draw_means(found)
    random = {
        at: by_draw.xs(("random_global", at), level=("method", "budget")).to_numpy()
        for at in [budget]
        if ("random_global", at) in {(m, b) for _, m, b, _ in by_draw.index}
    }
    records = []
    for place, row in enumerate(sets.itertuples()):
        drawn = str(row.method).startswith("random")
        if row.budget != budget and not (drawn and row.budget == "any"):
            continue
        if not drawn and row.method not in _AT_BUDGETS:
            continue
        scores = by_draw.xs((row.method, row.budget), level=("method", "budget")).to_numpy()
        share = pick(found.masks, method=row.method, budget=row.budget)["masked_share"].mean()
        rows = str(row.method).startswith(ROW_RULES)  # rows are other units than the neurons of the random masks
        compared = random.get(budget, np.empty(0)) if not drawn and not rows else np.empty(0)
        records.append(
            {
                "method": row.method,
                "budget": row.budget,
                "metric": found.metric,
                "masked_share": share,
                "mean": means[place],
                "low": low[place],
                "high": high[place],
                "lowest": scores.min(),
                "highest": scores.max(),
                "draws": scores.size,
                "p_value": random_p_value(means[place], compared),
            }
        )
    table = pd.DataFrame(records)
    table["p_holm"] = holm(table["p_value"])
    return _sorted(table, ["method", "budget"])


def ablation_table(found: Resampled, *, budget: str) -> pd.DataFrame:
    """Every variant of the selection rules: what it masks and its LangSpec-F1.

    Parameters
    ----------
    budget : the common one, at which methods of a dose-response curve are shown

    Returns
    -------
    frame with rule, level, one share column a language, LangSpec-F1 a language, their mean, low and high
    """
    values, draws = langspec_draws(found)
    masks = found.masks.assign(value=values)
    shown = masks["method"].isin(RULES) & (~masks["method"].isin(_AT_BUDGETS) | (masks["budget"] == budget))
    records = []
    for (method, level), part in masks[shown].groupby(["method", "budget"], sort=False):
        low, high = interval(draws[:, part.index].mean(axis=1))
        by_language = part.set_index("masked_language")
        record = {"rule": RULES[str(method)], "level": budget_label(str(level))}
        record |= {f"share_{k}": by_language.loc[k, "masked_share"] for k in found.languages}
        record |= {k: by_language.loc[k, "value"] for k in found.languages}
        records.append(record | {"mean": part["value"].mean(), "low": float(low), "high": float(high)})
    order = {name: place for place, name in enumerate(RULES.values())}
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
