"""References: what is kept of a run to compare others with: its settings, verdicts and the numbers of its tables."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_text
from crane_run.manifest import STAGES, Manifest
from crane_study import ROOT
from crane_study.frames import read_frame
from crane_study.paper.tolerances import Reproduction, load_tolerances
from crane_study.paper.verdicts import read_claims

REFERENCES = ROOT / "expected" / "reference"
NO_REFERENCE = "none"
DIGITS = 6  # significant digits that are kept
_ROWS = ("results.csv", "langspec.csv")  # one row per draw; kept as the mean over draws
_DRAW = "random_seed"
CLAIMS = "claims.json"
BETWEEN = " / "
_CLAIM_KEY = ["claim", "method", "budget", "metric"]
Cell = float | int | str | None


class ReferenceTable(BaseModel):
    """Numbers of one table: one list per row, in the order of `columns`; `key` are the columns that name a row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: list[str]
    columns: list[str]
    rows: dict[str, list[Cell]]

    def half_width(self, row: str, column: str) -> float:
        """Half the width of the interval of a column in a row, 0 where there is none.

        The interval of ``share`` ends in ``share_low`` and ``share_high``, that of ``own_drop`` in ``own_low`` and
        ``own_high``, any other in ``low`` and ``high``; an end belongs to its own interval.
        """
        cells = dict(zip(self.columns, self.rows[row], strict=True))
        stem = column.removesuffix("_low").removesuffix("_high")
        for start in (f"{stem}_", f"{stem.rpartition('_')[0]}_", ""):
            low, high = cells.get(f"{start}low"), cells.get(f"{start}high")
            if isinstance(low, int | float) and isinstance(high, int | float):
                return abs(high - low) / 2
        return 0.0


class Reference(BaseModel):
    """Settings, verdicts and numbers that are kept of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["crane.reference/1"] = Field(alias="schema", default="crane.reference/1")
    profile: dict[str, Any]
    made_with: dict[str, Any]
    verdicts: dict[str, str]
    weights: list[str] = []  # hashes of the weights of all models
    tables: dict[str, ReferenceTable]
    sha256: dict[str, str]  # for information: another machine may round differently


def reference_of(folder: Path, manifest: Manifest) -> Reference:
    """Settings, verdicts and numbers of the run in a folder."""
    rules = load_tolerances().reproduction.of_profile(str(manifest.profile.get("name")))
    verdicts = read_claims(folder / CLAIMS) if (folder / CLAIMS).is_file() else []
    hashes = {
        name: value
        for stage in manifest.stages
        for name, value in stage.outputs.items()
        if name.startswith((f"{STAGES}/corpus/", f"{STAGES}/benchmarks/"))  # made before any arithmetic
    }
    return Reference(
        profile=manifest.profile,
        made_with=describe_making(manifest),
        weights=sorted(value for model in manifest.models.values() for value in model.weights.values()),
        verdicts={_case(item): str(item["verdict"]) for item in verdicts},
        tables=_tables(folder, rules) | _claim_tables(verdicts, rules),
        sha256=hashes | {name: value for name, value in manifest.outputs.items() if name.endswith(".csv")},
    )


def describe_making(manifest: Manifest) -> dict[str, Any]:
    """Commit, versions and machine that a run was made with."""
    return {
        "commit": manifest.commit,
        "uncommitted_changes": manifest.uncommitted_changes,
        "python": manifest.python,
        "packages": {name: manifest.packages.get(name) for name in ("torch", "transformers", "numpy", "pandas")},
        "processor": manifest.machine.processor,
        "threads": sorted({stage.threads for stage in manifest.stages if stage.threads is not None}),
        "jobs": sorted({section.jobs for section in manifest.sections if section.jobs is not None}),
        "gpus": [gpu["name"] for gpu in manifest.machine.gpus],
    }


def reference_table(frame: pd.DataFrame, *, key: list[str]) -> ReferenceTable:
    """Numbers of a frame as a reference keeps them; the columns `key` name a row, and those of texts are left out."""
    columns = [name for name in frame if name not in key and is_numeric_dtype(frame[name])]
    records = frame.to_dict("records")
    rows = {BETWEEN.join(_text(one[name]) for name in key): [_cell(one[name]) for name in columns] for one in records}
    return ReferenceTable(key=key, columns=columns, rows=rows)


def _case(item: Mapping[str, Any]) -> str:
    return BETWEEN.join(str(item[name]) or "-" for name in ("id", "method", "budget", "measure"))


def _tables(folder: Path, rules: Reproduction) -> dict[str, ReferenceTable]:
    """Numbers of every CSV file of a run, without the columns that are not compared."""
    found = {}
    for name in [*_ROWS, *(f"tables/{path.name}" for path in sorted((folder / "tables").glob("*.csv")))]:
        path = folder / name
        if not path.is_file():
            continue
        if table := _table(read_frame(path), name, rules):
            found[name] = table
    return found


def _table(frame: pd.DataFrame, name: str, rules: Reproduction) -> ReferenceTable | None:
    """Numbers and texts of a frame, as the mean over draws of a random set; None where no column of it is compared."""
    key = [column for column in map(str, frame.columns) if rules.names_row(table=name, column=column)]
    if name in _ROWS:
        key = [column for column in key if column != _DRAW]
        values = [one for one in frame.columns if one not in [*key, _DRAW] and is_numeric_dtype(frame[one])]
        grouped = frame.groupby(key, sort=False, dropna=False)
        frame = grouped[values].mean().assign(draws=grouped.size()).reset_index()
    metrics = [str(value) for value in frame["metric"]] if "metric" in key else [""] * len(frame)
    compared = {
        column: {
            metric: rules.keeps(table=name, column=column, metric=metric, number=is_numeric_dtype(frame[column]))
            for metric in set(metrics)
        }
        for column in map(str, frame.columns)
        if column not in [*key, _DRAW]
    }
    columns = [column for column, by_metric in compared.items() if any(by_metric.values())]
    if not columns:
        return None
    rows: dict[str, list[Cell]] = {}
    seen: Counter[str] = Counter()
    for metric, record in zip(metrics, frame.to_dict("records"), strict=True):
        row = BETWEEN.join(_text(record[column]) for column in key)
        seen[row] += 1
        row += f" #{seen[row]}" if seen[row] > 1 else ""
        rows[row] = [_cell(record[column]) if compared[column][metric] else None for column in columns]
    return ReferenceTable(key=key, columns=columns, rows=rows)


def _text(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return (f"{value:g}" if isinstance(value, float) else str(value)) or "-"


def _cell(value: Any) -> Cell:
    """Round a number to the digits that are kept; a missing one is None, an infinite one a text."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return None
    if math.isinf(value):
        return str(float(value))
    number = float(f"{float(value):.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _claim_tables(verdicts: list[dict[str, Any]], rules: Reproduction) -> dict[str, ReferenceTable]:
    """Numbers of the verdicts, one table per claim."""
    found: dict[str, dict[str, dict[str, float]]] = {}  # table -> row -> column -> number
    for item in verdicts:
        name, metric = f"{CLAIMS} {item['id']}", str(item["measure"]) or "-"
        for row, column, value in _numbers(item["numbers"], _case(item)):
            if rules.keeps(table=name, column=column, metric=metric, number=True):
                found.setdefault(name, {}).setdefault(row, {})[column] = value
    tables = {}
    for name, rows in found.items():
        columns = list(dict.fromkeys(chain.from_iterable(rows.values())))
        cells = {row: [_cell(numbers.get(column)) for column in columns] for row, numbers in rows.items()}
        tables[name] = ReferenceTable(key=_CLAIM_KEY, columns=columns, rows=cells)
    return tables


def _numbers(value: Mapping[str, Any], row: str) -> Iterator[tuple[str, str, float]]:
    """Row, column and value of every number in the nested numbers of a verdict."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _numbers(inner, f"{row}{BETWEEN}{name}")
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            yield row, name, inner


def write_reference(path: Path, reference: BaseModel) -> None:
    """Write a reference, of a run or of a summary over seeds, as JSON with one line per row of a table."""
    text = json.dumps(reference.model_dump(by_alias=True), ensure_ascii=False, indent=1, allow_nan=False)
    write_text(path, re.sub(r"\n {5,}|\n {4}(?=\])", "", text) + "\n")  # cells are in the fifth level


def read_reference(path: Path) -> Reference:
    """Read a reference; a CraneError names what is wrong with it."""
    try:
        return Reference.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CraneError(f"{path}: is not a reference ({place}: {first['msg']}); crane reference writes one") from error
