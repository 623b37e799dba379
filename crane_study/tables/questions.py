"""Tables of accuracy, separated by benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from crane_study.tables import in_study_order

_KEYS = ["model", "selected_on", "method", "budget", "benchmark", "language", "masked"]


def has_several(items: pd.DataFrame) -> bool:
    """Return whether a language has questions of several benchmarks, so that its accuracy can be split."""
    return bool(items[["language", "benchmark"]].drop_duplicates()["language"].duplicated().any())


def accuracy_by_benchmark(items: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on each benchmark and language, from rows of ``items.parquet`` with a column benchmark.

    masked says whose units are masked: none, those of the language itself (own), or those of another language (others,
    mean over them). Random sets are means over their draws. low and high: Wilson's 95 % interval, of one mask only.
    """
    masked = items["masked_language"].fillna("")
    kinds = np.select([masked == "", masked == items["language"]], ["none", "own"], "others")
    frame = items.assign(masked=kinds, budget=items["budget"].fillna("").astype(str), correct=items["correct"] * 1.0)
    frame["mask"] = masked + " " + frame["random_seed"].astype(str)
    found = frame.groupby(_KEYS, sort=False, dropna=False).agg(
        n=("item", "nunique"), masks=("mask", "nunique"), accuracy=("correct", "mean")
    )
    low, high = proportion_confint(found["accuracy"] * found["n"], found["n"], method="wilson")
    one = found["masks"] == 1
    found = found.assign(low=low.where(one), high=high.where(one)).drop(columns="masks").reset_index()
    return in_study_order(found, _KEYS)
