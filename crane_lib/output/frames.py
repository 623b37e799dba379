"""Reading the tidy result rows: clean columns, effects of a mask against the unmasked model, scores a draw."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from crane_lib.errors import CraneError

SET = ["model", "selected_on", "method", "budget"]
_TEXT = ("profile", *SET, "masked_language", "evaluation_language", "task", "metric")


def budget_text(value: object) -> str:
    """A budget as the one text it is compared by: ``0.10`` and 0.1 are the same, missing is empty."""
    text = "" if value is None or value != value else str(value)
    try:
        return format(float(text), "g")
    except ValueError:
        return text


def tidy(frame: pd.DataFrame, *, needed: Iterable[str] = ()) -> pd.DataFrame:
    """A copy with text columns as text, budgets in one form and ``random_seed`` as whole numbers (-1: none).

    Raises
    ------
    CraneError : a needed column is missing
    """
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise CraneError(f"result rows: no column {missing[0]!r}; seen: {', '.join(map(str, frame.columns))}")
    frame = frame.copy()
    for name in _TEXT:
        if name in frame.columns:
            values = frame[name].astype(object)
            values = values.where(values.notna(), "")
            convert = {value: budget_text(value) if name == "budget" else str(value) for value in values.unique()}
            frame[name] = values.map(convert).astype(object)
    for name in ("value", "precision", "recall", "langspec_f1", "p_value", "share_of_a", "masked_share"):
        if name in frame.columns:
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    if "random_seed" in frame.columns:
        frame["random_seed"] = pd.to_numeric(frame["random_seed"], errors="coerce").fillna(-1).astype(int)
    return frame


def effects(rows: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Every masked row of a metric beside the unmasked value of the same model and language.

    Parameters
    ----------
    rows : tidy result rows

    Returns
    -------
    the masked rows with ``unmasked``, ``change`` (masked - unmasked) and ``relative_drop`` (the share of the unmasked
    value that is lost; NaN where that is not positive)

    Raises
    ------
    CraneError : a column is missing, or a model has two unmasked values for a language
    """
    needed = [*SET, "masked_language", "evaluation_language", "metric", "value"]
    frame = tidy(rows, needed=needed)
    if "random_seed" not in frame.columns:
        frame["random_seed"] = -1
    frame = frame[frame["metric"] == metric]
    keys = [name for name in ("profile", "model", "evaluation_language") if name in frame.columns]
    masked = frame["masked_language"] != ""
    unmasked = frame[~masked]
    double = unmasked[unmasked.duplicated(keys)]
    if len(double):
        first = double.iloc[0]
        raise CraneError(
            f"result rows: two unmasked values of {metric} for {first['model']}, {first['evaluation_language']}; "
            f"make the rows anew"
        )
    merged = frame[masked].merge(
        unmasked[[*keys, "value"]].rename(columns={"value": "unmasked"}), on=keys, how="left", validate="many_to_one"
    )
    merged["change"] = merged["value"] - merged["unmasked"]
    merged["relative_drop"] = -merged["change"] / merged["unmasked"].where(merged["unmasked"] > 0)
    return merged


def pick(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Rows in which each named column has the given value."""
    chosen = frame
    for name, value in wanted.items():
        chosen = chosen[chosen[name] == (budget_text(value) if name == "budget" else value)]
    return chosen


def over_draws(frame: pd.DataFrame, *, by: list[str], value: str) -> pd.DataFrame:
    """Mean of a column over draws, with their lowest, highest and number.

    Returns
    -------
    frame with the columns of `by` and mean, lowest, highest, draws
    """
    grouped = frame.groupby(by, sort=False)[value]
    return grouped.agg(mean="mean", lowest="min", highest="max", draws="count").reset_index()
