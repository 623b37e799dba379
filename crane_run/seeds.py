"""Summary over several model seeds: mean, deviation and t-interval of the main numbers, and counts of verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from crane_lib.errors import CraneError
from crane_lib.files import sha256, write_json
from crane_run.report import SEEDS_RECORD, write_seeds_report
from crane_study.figures.model_seeds import langspec_seeds, nll_rise_seeds
from crane_study.frames import read_frame
from crane_study.measure.rows import SET, budget_text, tidy
from crane_study.paper.claims import NOT_REPRODUCED, NOT_RUN, REPRODUCED, read_claims
from crane_study.publish import write_table
from crane_study.tables import in_study_order
from crane_study.tables.effects import specificity_table

SCHEMA = "crane.seeds/1"
_FILES = ("results.csv", "langspec.csv", "claims.json")
_LEVEL = 0.95
_MODEL_METRICS = ("accuracy", "nll")


def missing_results(folders: Mapping[int, Path]) -> str:
    """Name the first file that a summary lacks, empty if none."""
    for seed, folder in folders.items():
        for name in _FILES:
            if not (folder / name).is_file():
                return f"random seed {seed} has no {name}; the section on the claims makes it (run without --only)"
    return ""


def over_seeds(frame: pd.DataFrame, *, by: list[str], value: str) -> pd.DataFrame:
    """Mean, standard deviation and 95 % t-interval of a column over seeds.

    Parameters
    ----------
    frame : one row per seed (column ``seed``) and combination of `by`

    Returns
    -------
    frame with `by`, mean, deviation, low, high (NaN for a single seed) and seeds: their number
    """
    grouped = frame.groupby(by, sort=False, dropna=False)[value]
    table = grouped.agg(mean="mean", deviation="std", seeds="count").reset_index()
    half = t.ppf((1 + _LEVEL) / 2, table["seeds"] - 1) * table["deviation"] / np.sqrt(table["seeds"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)[
        [*by, "mean", "deviation", "low", "high", "seeds"]
    ]


def _read(folders: Mapping[int, Path], name: str) -> pd.DataFrame:
    """A result file of every seed, with a column ``seed``."""
    return pd.concat([read_frame(folder / name).assign(seed=seed) for seed, folder in folders.items()])


def _main_budgets(frame: pd.DataFrame, budget: float) -> pd.DataFrame:
    return frame[frame["budget"].isin(["published", budget_text(budget)])]


def model_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and NLL of the models as they are, one row per seed, model, metric and language."""
    frame = tidy(rows)
    chosen = (frame["masked_language"] == "") & frame["metric"].isin(_MODEL_METRICS)
    return frame[chosen][["seed", "model", "metric", "evaluation_language", "value"]]


def langspec_numbers(langspec: pd.DataFrame, *, budget: float) -> pd.DataFrame:
    """LangSpec-F1, mean over languages and draws: one row per seed, set and metric."""
    frame = _main_budgets(tidy(langspec), budget)
    return frame.groupby(["seed", *SET, "metric"], sort=False)["langspec_f1"].mean().reset_index()


def nll_numbers(rows: pd.DataFrame, *, budget: float) -> pd.DataFrame:
    """NLL rise on the masked language and on the worst other: one row per seed, set and masked language."""
    parts = []
    for seed, part in rows.groupby("seed", sort=False):
        table = specificity_table(part.drop(columns="seed"))
        parts.append(_main_budgets(table, budget).assign(seed=seed))
    columns = ["seed", *SET, "masked_language", "own_rise", "worst_other_rise"]
    return pd.concat(parts, ignore_index=True)[columns]


def verdict_counts(folders: Mapping[int, Path]) -> pd.DataFrame:
    """Count the seeds in which a claim is reproduced, is not, or was not run, per method and measure."""
    verdicts: list[dict[str, Any]] = [
        item for folder in folders.values() for item in read_claims(folder / "claims.json")
    ]
    frame = pd.DataFrame(verdicts).rename(columns={"id": "claim", "measure": "metric"})
    keys = ["claim", "title", "method", "budget", "metric"]
    table = frame.pivot_table(index=keys, columns="verdict", aggfunc="size", fill_value=0, sort=False).reset_index()
    table = table.reindex(columns=[*keys, REPRODUCED, NOT_REPRODUCED, NOT_RUN], fill_value=0)
    return in_study_order(table.rename_axis(columns=None), ["claim", "method", "metric"])


def write_summary(folders: Mapping[int, Path], output: Path, *, budget: float) -> Path:
    """Write tables, figures, ``seeds.json`` and ``report.md`` of the summary.

    Parameters
    ----------
    folders : random seed -> folder of its run, with results.csv, langspec.csv and claims.json
    output : folder of the summary
    budget : the common budget; other budgets are left out

    Returns
    -------
    path of the report

    Raises
    ------
    CraneError : a file is missing
    """
    if lacking := missing_results(folders):
        raise CraneError(f"summary over seeds: {lacking}")
    rows, langspec = _read(folders, "results.csv"), _read(folders, "langspec.csv")
    models = model_numbers(rows)
    scores, rises = langspec_numbers(langspec, budget=budget), nll_numbers(rows, budget=budget)
    count = len(folders)
    interval = f"over {count} model seeds: mean, standard deviation and 95 % t-interval"
    keys = [*SET, "masked_language"]
    tables = {
        "models": (
            over_seeds(models, by=["model", "metric", "evaluation_language"], value="value"),
            f"Accuracy and NLL of the models with nothing masked {interval}.",
        ),
        "langspec": (
            over_seeds(scores, by=[*SET, "metric"], value="langspec_f1"),
            f"LangSpec-F1, mean over languages and random draws, {interval}.",
        ),
        "nll_own": (
            over_seeds(rises, by=keys, value="own_rise"),
            f"NLL rise on the masked language {interval}.",
        ),
        "nll_worst_other": (
            over_seeds(rises, by=keys, value="worst_other_rise"),
            f"NLL rise on the language that suffers most besides the masked one {interval}.",
        ),
        "verdicts": (verdict_counts(folders), f"In how many of {count} model seeds each claim is reproduced."),
    }
    order = ["model", "selected_on", "metric", "method", "budget", "masked_language", "evaluation_language"]
    captions: dict[str, str] = {}
    for name, (table, caption) in tables.items():
        if name != "verdicts":
            table = in_study_order(table, [column for column in order if column in table])
        captions[f"tables/{name}"] = write_table(table, output / "tables" / name, caption=caption)
    figures = output / "figures"
    captions["figures/langspec"] = langspec_seeds(scores, figures / "langspec")
    captions["figures/nll_rise"] = nll_rise_seeds(rises, figures / "nll_rise")
    made_of = {str(seed): {name: sha256(folder / name) for name in _FILES} for seed, folder in folders.items()}
    write_json(output / SEEDS_RECORD, {"schema": SCHEMA, "seeds": made_of, "captions": captions})
    return write_seeds_report(output)
