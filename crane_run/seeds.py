"""Summary over several model seeds: mean, deviation and t-interval of the main numbers, and counts of verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from crane_lib.errors import CraneError
from crane_lib.files import sha256, write_json
from crane_run.report import SEEDS_RECORD, write_seeds_report
from crane_study.figures.model_seeds import langspec_seeds, nll_rise_seeds
from crane_study.frames import read_frame
from crane_study.measure.rows import SET, budget_text, tidy
from crane_study.paper.claims import VERDICTS, read_claims
from crane_study.publish import write_table
from crane_study.tables import in_study_order
from crane_study.tables.effects import specificity_table

_FILES = ("results.csv", "langspec.csv", "claims.json")
_LEVEL = 0.95


def missing_results(folders: Mapping[int, Path]) -> str:
    """Name the first file that a summary lacks, empty if none."""
    lacking = [(seed, name) for seed, folder in folders.items() for name in _FILES if not (folder / name).is_file()]
    advice = "the section on the claims makes it (run without --only)"
    return f"random seed {lacking[0][0]} has no {lacking[0][1]}; {advice}" if lacking else ""


def _over_seeds(frame: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean, standard deviation and 95 % t-interval (NaN for a single seed) of a column over seeds, one row per `by`."""
    grouped = frame.groupby(by, sort=False, dropna=False)[value]
    table = grouped.agg(mean="mean", deviation="std", seeds="count").reset_index()
    half = t.ppf((1 + _LEVEL) / 2, table["seeds"] - 1) * table["deviation"] / np.sqrt(table["seeds"])
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half)
    order = ["model", "selected_on", "metric", "method", "budget", "masked_language", "evaluation_language"]
    table = in_study_order(table, [name for name in order if name in table])
    return table[[*by, "mean", "deviation", "low", "high", "seeds"]]


def _read(folders: Mapping[int, Path], name: str) -> pd.DataFrame:
    """A result file of every seed, with a column ``seed``."""
    return pd.concat([read_frame(folder / name).assign(seed=seed) for seed, folder in folders.items()])


def _model_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and NLL of the models as they are, one row per seed, model, metric and language."""
    frame = tidy(rows)
    chosen = (frame["masked_language"] == "") & frame["metric"].isin(["accuracy", "nll"])
    return frame[chosen][["seed", "model", "metric", "evaluation_language", "value"]]


def _langspec_numbers(langspec: pd.DataFrame, budgets: list[str]) -> pd.DataFrame:
    """LangSpec-F1, mean over languages and draws: one row per seed, set and metric."""
    frame = tidy(langspec)
    frame = frame[frame["budget"].isin(budgets)]
    return frame.groupby(["seed", *SET, "metric"], sort=False)["langspec_f1"].mean().reset_index()


def _nll_numbers(rows: pd.DataFrame, budgets: list[str]) -> pd.DataFrame:
    """NLL rise on the masked language and on the worst other: one row per seed, set and masked language."""
    seeds = rows.groupby("seed", sort=False)
    frame = pd.concat([specificity_table(part.drop(columns="seed")).assign(seed=seed) for seed, part in seeds])
    chosen = frame[frame["budget"].isin(budgets)].reset_index(drop=True)
    return chosen[["seed", *SET, "masked_language", "own_rise", "worst_other_rise"]]


def _verdict_counts(folders: Mapping[int, Path]) -> pd.DataFrame:
    """Count the seeds with each verdict on a claim, per method and measure."""
    verdicts = [item for folder in folders.values() for item in read_claims(folder / "claims.json")]
    frame = pd.DataFrame(verdicts).rename(columns={"id": "claim", "measure": "metric"})
    keys = ["claim", "title", "method", "budget", "metric"]
    table = frame.pivot_table(index=keys, columns="verdict", aggfunc="size", fill_value=0, sort=False).reset_index()
    table = table.reindex(columns=[*keys, *VERDICTS], fill_value=0)
    return in_study_order(table.rename_axis(columns=None), ["claim", "method", "metric"])


def write_summary(folders: Mapping[int, Path], output: Path, *, budget: float) -> Path:
    """Write tables, figures, ``seeds.json`` and ``report.md`` of the summary; return the path of the report.

    The runs in `folders`, by random seed, need results.csv, langspec.csv and claims.json; of the budgets, the published
    one and the common one (`budget`) are summarized.
    """
    if lacking := missing_results(folders):
        raise CraneError(f"summary over seeds: {lacking}")
    rows, budgets = _read(folders, "results.csv"), ["published", budget_text(budget)]
    models, rises = _model_numbers(rows), _nll_numbers(rows, budgets)
    scores = _langspec_numbers(_read(folders, "langspec.csv"), budgets)
    interval = f"over {len(folders)} model seeds: mean, standard deviation and 95 % t-interval"
    masks = [*SET, "masked_language"]
    tables = {
        "models": (
            _over_seeds(models, ["model", "metric", "evaluation_language"], "value"),
            f"Accuracy and NLL of the models with nothing masked {interval}.",
        ),
        "langspec": (
            _over_seeds(scores, [*SET, "metric"], "langspec_f1"),
            f"LangSpec-F1, mean over languages and random draws, {interval}.",
        ),
        "nll_own": (_over_seeds(rises, masks, "own_rise"), f"NLL rise on the masked language {interval}."),
        "nll_worst_other": (
            _over_seeds(rises, masks, "worst_other_rise"),
            f"NLL rise on the language that suffers most besides the masked one {interval}.",
        ),
        "verdicts": (_verdict_counts(folders), f"In how many of {len(folders)} model seeds each claim is reproduced."),
    }
    captions = {
        f"tables/{name}": write_table(table, output / "tables" / name, caption=caption)
        for name, (table, caption) in tables.items()
    }
    captions["figures/langspec"] = langspec_seeds(scores, output / "figures" / "langspec")
    captions["figures/nll_rise"] = nll_rise_seeds(rises, output / "figures" / "nll_rise")
    made_of = {str(seed): {name: sha256(folder / name) for name in _FILES} for seed, folder in folders.items()}
    write_json(output / SEEDS_RECORD, {"schema": "crane.seeds/1", "seeds": made_of, "captions": captions})
    return write_seeds_report(output)
