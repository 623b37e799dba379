"""Tidy result rows: one value of one metric of one masked or unmasked model in one language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from crane_lib.metrics import langspec
from crane_lib.neurons import NeuronSet

COLUMNS = (
    "profile",
    "model",
    "selected_on",
    "method",
    "budget",
    "masked_language",
    "evaluation_language",
    "task",
    "metric",
    "value",
    "n",
    "random_seed",
    "masked_share",
)
# What identifies a mask within a model.
MASK = ["profile", "model", "selected_on", "method", "budget", "masked_language", "random_seed", "masked_share"]
# A method's masks at a budget, over the languages and random draws.
SET = ["model", "selected_on", "method", "budget"]
Measure = Literal["token_probability", "accuracy"]
MEASURES: tuple[Measure, ...] = ("token_probability", "accuracy")


def mask_labels(neurons: NeuronSet | None, *, selected_on: str) -> dict[str, Any]:
    """Columns that say which mask a row is about; None is the unmasked model."""
    if neurons is None:
        return {
            "selected_on": "",
            "method": "none",
            "budget": "",
            "masked_language": "",
            "random_seed": -1,
            "masked_share": 0.0,
        }
    return {
        "selected_on": selected_on,
        "method": neurons.method,
        "budget": neurons.budget,
        "masked_language": neurons.language,
        "random_seed": neurons.random_seed,
        "masked_share": neurons.share(),
    }


def perplexity_rows(nll: np.ndarray, tokens: np.ndarray, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """NLL a token, perplexity and token probability of a set of documents.

    Parameters
    ----------
    nll, tokens : (documents,) total NLL in nats and predicted tokens
    """
    mean = float(nll.sum() / tokens.sum())
    values = {"nll": mean, "perplexity": float(np.exp(mean)), "token_probability": float(np.exp(-mean))}
    count = int(tokens.sum())
    return [
        {**labels, "task": "perplexity", "metric": metric, "value": value, "n": count}
        for metric, value in values.items()
    ]


def accuracy_row(correct: np.ndarray, labels: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy on a language's questions.  correct : (items,) bool"""
    return {**labels, "task": "nlu", "metric": "accuracy", "value": float(np.mean(correct)), "n": len(correct)}


def langspec_rows(rows: pd.DataFrame, *, measure: Measure) -> pd.DataFrame:
    """LangSpec-F1 of every mask in `rows`, on one measure; each evaluation language is a task.

    Returns
    -------
    frame with the mask's columns, task, metric, precision, recall, langspec_f1; empty where `rows` lacks the measure
    """
    chosen = rows[rows["metric"] == measure]
    result = []
    for model, of_model in chosen.groupby("model", sort=False):
        unmasked = of_model[of_model["method"] == "none"].set_index("evaluation_language")["value"].to_dict()
        masks = of_model[of_model["method"] != "none"]
        for labels, scores in masks.groupby(MASK, sort=False):
            named = dict(zip(MASK, labels, strict=True))
            values = scores.set_index("evaluation_language")["value"].to_dict()
            found = langspec(unmasked, values, target=named["masked_language"])
            task = scores["task"].iloc[0]
            result.append(
                {
                    **named,
                    "model": model,
                    "task": task,
                    "metric": measure,
                    "precision": found.precision,
                    "recall": found.recall,
                    "langspec_f1": found.f,
                }
            )
    columns = [*MASK, "task", "metric", "precision", "recall", "langspec_f1"]
    return pd.DataFrame(result, columns=columns)


def langspec_of(rows: pd.DataFrame) -> pd.DataFrame:
    """LangSpec-F1 of every mask on every measure that `rows` has."""
    return pd.concat([langspec_rows(rows, measure=measure) for measure in MEASURES], ignore_index=True)
