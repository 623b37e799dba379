"""Tables of controls: random masks, variants of the selection rules, and silenced parts of the model."""

from __future__ import annotations

import pandas as pd

from crane_lib.evaluation.permutation import ROW_RULES, p_value_against
from crane_lib.evaluation.resampling import Resampled, interval
from crane_lib.evaluation.uncertainty import holm, langspec_draws, method_means
from crane_lib.output.frames import pick
from crane_lib.output.style import budget_label
from crane_lib.output.tables import in_study_order
from crane_lib.output.tables_doses import AT_BUDGETS
from crane_lib.output.tables_intervals import draw_means, mask_scores

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
        if not drawn and row.method not in AT_BUDGETS:
            continue
        scores = by_draw.xs((row.method, row.budget), level=("method", "budget")).to_numpy()
        own = pick(masks, method=row.method, budget=row.budget)
        rows = str(row.method).startswith(ROW_RULES)  # rows are other units than the neurons of the random masks
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
    values, draws = langspec_draws(found)
    masks = found.masks.assign(value=values)
    shown = masks["method"].isin(RULES) & (~masks["method"].isin(AT_BUDGETS) | (masks["budget"] == budget))
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
