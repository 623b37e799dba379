"""Summary over several model seeds: mean, deviation and t-interval of the main numbers, and counts of verdicts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.stats import t

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256, write_json
from crane_run.manifest import Manifest
from crane_run.references import NO_REFERENCE, ReferenceTable, describe_making, reference_table
from crane_run.report import SEEDS_RECORD, write_seeds_report
from crane_run.verify import verify
from crane_study.figures.model_seeds import SCORES, langspec_seeds, matched_damage_seeds
from crane_study.frames import read_frame
from crane_study.measure.rows import SET, tidy
from crane_study.paper.claims import VERDICTS
from crane_study.paper.verdicts import read_claims
from crane_study.publish import write_table
from crane_study.tables import in_study_order
from crane_study.tables.matched_damage import ALL

_DAMAGE, _MEANS = "tables/06_matched_damage.csv", "tables/06_matched_summary.csv"
_SCORES = ("tables/03_langspec.csv", "tables/04_langspec.csv")
_ROWS, _CLAIMS = "results.csv", "claims.json"
_FILES = (_DAMAGE, _MEANS, *_SCORES, _ROWS, _CLAIMS)
_LEVEL = 0.95
_STATISTICS = ["mean", "deviation", "low", "high", "seeds"]
Folders = Mapping[int, Path]  # of runs, by random seed


class SeedsReference(BaseModel):
    """Summary over the model seeds of a profile, as it is committed: what it was made with, and its tables."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["crane.seeds-reference/1"] = Field(alias="schema", default="crane.seeds-reference/1")
    profile: str
    random_seeds: list[int]
    made_with: dict[str, Any]
    tables: dict[str, ReferenceTable]


def _over_seeds(frame: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean, standard deviation and 95 % t-interval (NaN for a single seed) of a column over seeds, one row per `by`.

    seeds is the number of those that have a value.
    """
    grouped = frame.groupby(by, sort=False, dropna=False)[value]
    table = grouped.agg(mean="mean", deviation="std", seeds="count").reset_index()
    half = t.ppf((1 + _LEVEL) / 2, table["seeds"] - 1) * table["deviation"] / np.sqrt(table["seeds"])
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half)
    order = ["model", "selected_on", "metric", "damage", "method", "budget", "masked_language", "evaluation_language"]
    table = in_study_order(table, [name for name in order if name in table])
    return table[[*by, *_STATISTICS]]


def _read(folders: Folders, name: str) -> pd.DataFrame:
    """A file of every seed, with a column ``seed``; empty if one of them lacks it."""
    if not all((folder / name).is_file() for folder in folders.values()):
        return pd.DataFrame()
    return tidy(pd.concat([read_frame(folder / name).assign(seed=seed) for seed, folder in folders.items()]))


def _model_numbers(folders: Folders) -> pd.DataFrame:
    """Accuracy and NLL of the models as they are, one row per seed, model, metric and language."""
    rows = _read(folders, _ROWS)
    if rows.empty:
        return rows
    chosen = (rows["masked_language"] == "") & rows["metric"].isin(["accuracy", "nll"])
    return rows[chosen][["seed", "model", "metric", "evaluation_language", "value"]]


def _langspec_numbers(folders: Folders) -> pd.DataFrame:
    """LangSpec-F1, precision and recall, means over languages and draws: one row per seed, set, metric and score."""
    frames = [frame for name in _SCORES if len(frame := _read(folders, name))]
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames).rename(columns={"mean": "langspec_f1"})
    return table.melt(["seed", *SET, "metric"], list(SCORES), var_name="score")


def _selectivity(folders: Folders) -> pd.DataFrame:
    """Rise on the worst other language at equal damage: one row per seed, method, damage and masked language (or all).

    Missing where the method does not do the damage.
    """
    each, means = _read(folders, _DAMAGE), _read(folders, _MEANS)
    found = pd.concat([each, means.assign(masked_language=ALL)]) if len(each) and len(means) else pd.DataFrame()
    return found.reindex(columns=["seed", "method", "damage", "masked_language", "worst"])


def _verdict_counts(folders: Folders) -> pd.DataFrame:
    """Count the seeds with each verdict on a claim, per method and measure; empty if a seed has no verdicts."""
    if not all((folder / _CLAIMS).is_file() for folder in folders.values()):
        return pd.DataFrame()
    verdicts = [item for folder in folders.values() for item in read_claims(folder / _CLAIMS)]
    frame = pd.DataFrame(verdicts).rename(columns={"id": "claim", "measure": "metric"})
    keys = ["claim", "title", "method", "budget", "metric"]
    table = frame.pivot_table(index=keys, columns="verdict", aggfunc="size", fill_value=0, sort=False).reset_index()
    table = table.reindex(columns=[*keys, *VERDICTS], fill_value=0)
    return in_study_order(table.rename_axis(columns=None), ["claim", "method", "metric"])


def write_summary(folders: Folders, output: Path) -> Path:
    """Write tables, figures, ``seeds.json`` and ``report.md`` of the summary; return the path of the report.

    A table is made of files that sections 03, 04, 06 and 09 write, if every run in `folders` has them.

    Raises
    ------
    CraneError : fewer than two runs, or no table that all of them have
    """
    selectivity, scores, models = _selectivity(folders), _langspec_numbers(folders), _model_numbers(folders)
    interval = f"over {len(folders)} model seeds: mean, standard deviation and 95 % t-interval"
    damage = f"NLL rise on the worst other language where the masked one has lost so much {interval}; seeds: how many "
    damage += "reach the damage. All: mean over the languages, of seeds where each reaches it."
    langspec = f"LangSpec-F1, precision and recall, means over languages and random draws, {interval}."
    parts = (
        ("matched_damage", selectivity, ["method", "damage", "masked_language"], "worst", damage),
        ("langspec", scores, [*SET, "metric", "score"], "value", langspec),
        ("models", models, ["model", "metric", "evaluation_language"], "value", f"Models, nothing masked, {interval}."),
    )
    tables = {name: (_over_seeds(frame, by, value), caption) for name, frame, by, value, caption in parts if len(frame)}
    if len(verdicts := _verdict_counts(folders)):
        tables["verdicts"] = (verdicts, f"In how many of {len(folders)} model seeds each claim is reproduced.")
    if len(folders) < 2 or not tables:
        seen = ", ".join(map(str, folders)) or "none"
        raise CraneError(f"summary over seeds {seen}: expected two seeds with sections 03 or 06 done; run these first")
    shutil.rmtree(output, ignore_errors=True)
    captions = {
        f"tables/{name}": write_table(table, output / "tables" / name, caption=caption)
        for name, (table, caption) in tables.items()
    }
    figures = {"matched_damage": (matched_damage_seeds, selectivity), "langspec": (langspec_seeds, scores)}
    for name, (draw, frame) in figures.items():
        if len(frame):
            captions[f"figures/{name}"] = draw(frame, output / "figures" / name)
    made_of = {
        str(seed): {name: sha256(path) for name in _FILES if (path := folder / name).is_file()}
        for seed, folder in folders.items()
    }
    write_json(output / SEEDS_RECORD, {"schema": "crane.seeds/2", "seeds": made_of, "captions": captions})
    return write_seeds_report(output)


def finished_seeds(runs: Iterable[Path], *, allow_dirty: bool) -> dict[int, tuple[Path, Manifest]]:
    """Folders and manifests of runs that differ by their random seed only, by that seed.

    Raises
    ------
    CraneError : a run is not as its manifest says, of other settings or of another commit than the first one, of
        the same seed as another one, or made from a tree with uncommitted changes (unless `allow_dirty`)
    """
    found: dict[int, tuple[Path, Manifest]] = {}
    settings: Any = None
    for run in runs:
        finding = verify(run, against=NO_REFERENCE)
        manifest = finding.manifest
        if manifest is None or finding.problems:
            raise CraneError(f"{run}: is not as its manifest says: {finding.problems[0]}; run it again")
        if manifest.uncommitted_changes and not allow_dirty:
            raise CraneError(f"{run}: was made from a tree with uncommitted changes; commit them or give --allow-dirty")
        own = {key: value for key, value in manifest.profile.items() if key not in ("name", "random_seed")}
        own["commit"] = manifest.commit
        if settings not in (None, own) or manifest.random_seed in found:
            raise CraneError(f"{run}: expected settings and commit of the first run, and a random seed of its own")
        found[manifest.random_seed], settings = (run, manifest), own
    return dict(sorted(found.items()))


def reference_of_seeds(profile: str, manifests: Mapping[int, Manifest], summary: Path) -> SeedsReference:
    """Summary in a folder, as it is committed, with the origin of the runs that it is made of."""
    made_with = [describe_making(manifest) for manifest in manifests.values()]
    about = {**made_with[0], "processor": sorted({str(one["processor"]) for one in made_with})}
    tables = {}
    for path in sorted((summary / "tables").glob("*.csv")):
        frame = read_frame(path)
        numbers = (*_STATISTICS, *VERDICTS, "title")
        tables[path.stem] = reference_table(frame, key=[name for name in frame if name not in numbers])
    return SeedsReference(profile=profile, random_seeds=list(manifests), made_with=about, tables=tables)


def read_seeds_reference(path: Path) -> SeedsReference:
    """Read a committed summary; a CraneError names what is wrong with it."""
    try:
        return SeedsReference.model_validate(read_json(path))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise CraneError(f"{path}: is not a summary over seeds ({reason}); crane seeds writes one") from error
