"""Tidy result rows: one value of one metric of one masked or unmasked model in one language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_lib.specificity import langspec
from crane_study.frames import write_frame

_LABELS = ("profile", "model", "selected_on", "method", "budget", "masked_language", "evaluation_language")
_TEXTS = (*_LABELS, "task", "metric")
COLUMNS = (*_TEXTS, "value", "n", "random_seed", "masked_share")  # of result rows, in order
# Columns that identify a mask of a model, and all masks of a method at a budget, over languages and random draws.
MASK = ["profile", "model", "selected_on", "method", "budget", "masked_language", "random_seed", "masked_share"]
SET = ["model", "selected_on", "method", "budget"]
CHANCE = {"accuracy": 0.25}  # of guessing one of four answers
EVERYTHING = "everything"  # method of the mask that silences every neuron, the same for every language
_DERIVED = ("precision", "recall", "langspec_f1", "p_value", "share_of_a")  # numbers in tables made of rows
MEASURES = ("token_probability", "accuracy")


def mask_labels(neurons: NeuronSet | None, *, selected_on: str) -> dict[str, Any]:
    """Return the columns that identify the mask of a row; None is the unmasked model."""
    labels: tuple[Any, ...] = ("", "none", "", "", -1, 0.0)
    if neurons is not None:
        labels = (selected_on, neurons.method, neurons.budget, neurons.language, neurons.random_seed, neurons.share())
    return dict(zip(MASK[2:], labels, strict=True))


def perplexity_rows(nll: np.ndarray, tokens: np.ndarray, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return NLL per token, perplexity and token probability of documents, from total NLL (nats) and tokens of each."""
    mean = float(nll.sum() / tokens.sum())
    values = {"nll": mean, "perplexity": float(np.exp(mean)), "token_probability": float(np.exp(-mean))}
    count = int(tokens.sum())
    about = {**labels, "task": "perplexity"}
    return [{**about, "metric": metric, "value": value, "n": count} for metric, value in values.items()]


def accuracy_row(correct: np.ndarray, labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return the accuracy on the questions of a language.  correct : (items,) bool"""
    return {**labels, "task": "nlu", "metric": "accuracy", "value": float(np.mean(correct)), "n": len(correct)}


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows.csv, columns in the order of `COLUMNS`."""
    write_frame(folder / "rows.csv", pd.DataFrame(rows)[list(COLUMNS)])


def above_chance(scores: np.ndarray, *, measure: str) -> np.ndarray:
    """Return scores minus what guessing reaches, 0 below it: what a mask can take away of an accuracy."""
    return np.maximum(scores - CHANCE[measure], 0.0) if measure in CHANCE else scores


def langspec_rows(rows: pd.DataFrame, *, measure: str, corrected: bool = True) -> pd.DataFrame:
    """Return LangSpec-F1 of every mask by one measure; each evaluation language is a task.

    Accuracies are corrected for chance (`above_chance`) unless the paper's own formula is wanted. Columns: `MASK`,
    task, metric, precision, recall, langspec_f1; empty if `rows` lacks the measure.
    """
    chosen = rows[rows["metric"] == measure]
    if corrected:
        chosen = chosen.assign(value=above_chance(chosen["value"].to_numpy(float), measure=measure))
    result = []
    for _model, of_model in chosen.groupby("model", sort=False):
        unmasked = of_model[of_model["method"] == "none"].set_index("evaluation_language")["value"].to_dict()
        for labels, scores in of_model[of_model["method"] != "none"].groupby(MASK, sort=False):
            named = dict(zip(MASK, labels, strict=True))
            values = scores.set_index("evaluation_language")["value"].to_dict()
            found = langspec(unmasked, values, target=named["masked_language"])
            result.append((*labels, scores["task"].iloc[0], measure, found.precision, found.recall, found.f))
    return pd.DataFrame(result, columns=[*MASK, "task", "metric", "precision", "recall", "langspec_f1"])


def langspec_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return LangSpec-F1 of every mask by every measure that `rows` has."""
    return pd.concat([langspec_rows(rows, measure=measure) for measure in MEASURES], ignore_index=True)


def budget_text(value: object) -> str:
    """Return the normal form of a budget: ``0.10`` and 0.1 are the same, missing is empty."""
    text = "" if value is None or value != value else str(value)
    try:
        return format(float(text), "g")
    except ValueError:
        return text


def tidy(frame: pd.DataFrame, *, needed: Iterable[str] = ()) -> pd.DataFrame:
    """Return a copy with texts as text, budgets in normal form, numbers as float, random seeds as int (-1: none)."""
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise CraneError(f"result rows: no column {missing[0]!r}; seen: {', '.join(map(str, frame.columns))}")
    frame = frame.copy()
    for name in frame.columns.intersection(_TEXTS):
        values = frame[name].astype(object).where(frame[name].notna(), "")
        convert = {value: budget_text(value) if name == "budget" else str(value) for value in values.unique()}
        frame[name] = values.map(convert).astype(object)
    for name in ("value", "masked_share", *_DERIVED):
        if name in frame.columns:
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    if "random_seed" in frame.columns:
        frame["random_seed"] = pd.to_numeric(frame["random_seed"], errors="coerce").fillna(-1).astype(int)
    return frame


def effects(rows: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Compare every masked row of a metric with the unmasked value of the same model and language.

    Returns the masked rows with ``unmasked``, ``change`` (masked - unmasked) and ``relative_drop`` (lost share of the
    unmasked value, of accuracies above chance; NaN if that is not positive).
    """
    needed = [*SET, "masked_language", "evaluation_language", "metric", "value"]
    frame = tidy(rows, needed=needed)
    if "random_seed" not in frame.columns:
        frame["random_seed"] = -1
    frame = frame[frame["metric"] == metric]
    keys = [name for name in ("profile", "model", "evaluation_language") if name in frame.columns]
    masked = frame["masked_language"] != ""
    unmasked = frame[~masked]
    for _index, first in unmasked[unmasked.duplicated(keys)].iterrows():
        raise CraneError(
            f"result rows: two unmasked values of {metric} for {first['model']}, {first['evaluation_language']}; "
            "make the rows again"
        )
    merged = frame[masked].merge(
        unmasked[[*keys, "value"]].rename(columns={"value": "unmasked"}), on=keys, how="left", validate="many_to_one"
    )
    merged["change"] = merged["value"] - merged["unmasked"]
    before, after = (
        merged[name].where(merged[name].isna(), above_chance(merged[name].to_numpy(float), measure=metric))
        for name in ("unmasked", "value")
    )
    merged["relative_drop"] = (before - after) / before.where(before > 0)
    return merged


def pick(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Return the rows in which each named column has the given value."""
    chosen = frame
    for name, value in wanted.items():
        chosen = chosen[chosen[name] == (budget_text(value) if name == "budget" else value)]
    return chosen


def over_draws(frame: pd.DataFrame, *, by: list[str], value: str) -> pd.DataFrame:
    """Return the mean, lowest and highest value of a column over draws and the number of draws, per values of `by`."""
    grouped = frame.groupby(by, sort=False)[value]
    return grouped.agg(mean="mean", lowest="min", highest="max", draws="count").reset_index()
