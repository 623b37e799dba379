"""The numbers of a run in one small file, to hold another run against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crane_lib.errors import CraneError
from crane_lib.files import read_frame, read_json, write_text
from crane_lib.output.claims import read_claims
from crane_lib.output.reproduction import Reproduction
from crane_lib.pipeline.manifest import STAGES
from crane_lib.pipeline.manifest_schema import Manifest

SCHEMA = "crane.reference/1"
REFERENCES = Path(__file__).resolve().parents[2] / "expected" / "reference"
DIGITS = 6  # significant ones that are kept
_ROWS = ("results.csv", "langspec.csv")  # a row a draw; kept as the mean over draws
_DRAW = "random_seed"
_CLAIMS = "claims.json"
_BETWEEN = " / "
Cell = float | int | str | None


class Table(BaseModel):
    """Numbers of one table: a list a row, in the order of `columns`, under what names the row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: list[str]
    columns: list[str]
    rows: dict[str, list[Cell]]

    def metric(self, row: str) -> str:
        """The metric that a row is of, where the table says one."""
        place = self.key.index("metric") if "metric" in self.key else None
        return row.split(_BETWEEN)[place] if place is not None else ""

    def half_width(self, row: str, column: str) -> float:
        """Half the width of the interval that a row has for a column, 0 where it has none.

        The interval of ``share`` ends in ``share_low`` and ``share_high``, that of ``own_drop`` in ``own_low`` and
        ``own_high``, else in ``low`` and ``high``; an end belongs to its own interval.
        """
        cells = dict(zip(self.columns, self.rows[row], strict=True))
        stem = column.removesuffix("_low").removesuffix("_high")
        for start in (f"{stem}_", f"{stem.rpartition('_')[0]}_", ""):
            low, high = cells.get(f"{start}low"), cells.get(f"{start}high")
            if isinstance(low, int | float) and isinstance(high, int | float):
                return abs(high - low) / 2
        return 0.0


class Reference(BaseModel):
    """What is kept of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["crane.reference/1"] = Field(alias="schema", default="crane.reference/1")
    profile: dict[str, Any]
    made_with: dict[str, Any]
    verdicts: dict[str, str]
    tables: dict[str, Table]
    sha256: dict[str, str]  # for information: another machine may round differently


@dataclass(frozen=True)
class _Claim:
    """One number of one verdict."""

    row: str
    column: str
    value: float


def reference_of(folder: Path, manifest: Manifest, *, rules: Reproduction) -> Reference:
    """The numbers of the run in a folder."""
    return Reference(
        profile=manifest.profile,
        made_with=made_with(manifest),
        verdicts=verdicts_of(folder),
        tables=tables_of(folder, rules=rules),
        sha256=_hashes(manifest),
    )


def made_with(manifest: Manifest) -> dict[str, Any]:
    """What numbers may depend on beside source and data: commit, packages, processor, threads, jobs, GPUs."""
    return {
        "commit": manifest.commit,
        "uncommitted_changes": manifest.uncommitted_changes,
        "python": manifest.python,
        "packages": {name: manifest.packages.get(name) for name in ("torch", "transformers", "numpy", "pandas")},
        "processor": manifest.machine.processor,
        "threads": sorted({stage.threads for stage in manifest.stages if stage.threads is not None}),
        "jobs": sorted({section.jobs for section in manifest.sections if section.jobs is not None}),
        "gpus": [gpu.name for gpu in manifest.machine.gpus],
    }


def _hashes(manifest: Manifest) -> dict[str, str]:
    """Hashes of what is made before any arithmetic, and of every table."""
    before = [f"{STAGES}/corpus/", f"{STAGES}/benchmarks/"]
    made = {name: value for stage in manifest.stages for name, value in stage.outputs.items()}
    found = {name: value for name, value in made.items() if any(name.startswith(start) for start in before)}
    return found | {name: value for name, value in manifest.outputs.items() if name.endswith(".csv")}


def verdicts_of(folder: Path) -> dict[str, str]:
    """Verdict of every claim, method, budget and measure; nothing where no claim was judged."""
    path = folder / _CLAIMS
    if not path.is_file():
        return {}
    return {_case(item): str(item["verdict"]) for item in read_claims(path)}


def _case(item: Mapping[str, Any]) -> str:
    return _BETWEEN.join(str(item[name]) or "-" for name in ("id", "method", "budget", "measure"))


def tables_of(folder: Path, *, rules: Reproduction) -> dict[str, Table]:
    """Numbers of every CSV file of a run and of its claims, without the columns that are not compared."""
    found = {}
    names = [*_ROWS, *(f"tables/{path.name}" for path in sorted((folder / "tables").glob("*.csv")))]
    for name in names:
        if (folder / name).is_file():
            table = _table(_frame(folder / name), name, rules=rules, averaged=name in _ROWS)
            if table is not None:
                found[name] = table
    if (folder / _CLAIMS).is_file():
        found |= _claims(read_claims(folder / _CLAIMS), rules=rules)
    return found


def _frame(path: Path) -> pd.DataFrame:
    try:
        return read_frame(path)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are of the first kind
        raise CraneError(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:120]})") from error


def _table(frame: pd.DataFrame, name: str, *, rules: Reproduction, averaged: bool) -> Table | None:
    """Numbers and texts found in a frame; None where no column of it is compared."""
    columns = [str(column) for column in frame.columns]
    key = [column for column in columns if rules.names_row(table=name, column=column)]
    if averaged:
        key = [column for column in key if column != _DRAW]
        frame = _over_draws(frame, key)
        columns = [str(column) for column in frame.columns]
    metrics = [str(value) for value in frame["metric"]] if "metric" in key else [""] * len(frame)
    values = [column for column in columns if not rules.names_row(table=name, column=column) and column != _DRAW]
    compared = {
        (column, metric): rules.compares(
            table=name, column=column, metric=metric, number=is_numeric_dtype(frame[column])
        )
        for column in values
        for metric in set(metrics)
    }
    found = [column for column in values if any(compared[column, metric] for metric in set(metrics))]
    if not found:
        return None
    rows: dict[str, list[Cell]] = {}
    for metric, record in zip(metrics, frame.to_dict("records"), strict=True):
        row = _free(_BETWEEN.join(_text(record[column]) for column in key), rows)
        rows[row] = [_cell(record[column]) if compared[column, metric] else None for column in found]
    return Table(key=key, columns=found, rows=rows)


def _over_draws(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Mean over the draws of a random set, with their number."""
    values = [name for name in frame.columns if name not in key and is_numeric_dtype(frame[name]) and name != _DRAW]
    grouped = frame.groupby(key, sort=False, dropna=False)
    return grouped[values].mean().assign(draws=grouped.size()).reset_index()


def _text(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return (f"{value:g}" if isinstance(value, float) else str(value)) or "-"


def _free(row: str, rows: Mapping[str, Any]) -> str:
    """The row's name, numbered where it is taken."""
    name, number = row, 2
    while name in rows:
        name, number = f"{row} #{number}", number + 1
    return name


def _cell(value: Any) -> Cell:
    """A value as it is kept: numbers with six significant digits, missing ones as None."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return None
    number = float(f"{float(value):.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _claims(verdicts: list[dict[str, Any]], *, rules: Reproduction) -> dict[str, Table]:
    """Numbers of the verdicts, a table a claim."""
    found: dict[str, list[_Claim]] = {}
    for item in verdicts:
        found.setdefault(f"{_CLAIMS} {item['id']}", []).extend(_numbers(item["numbers"], _case(item)))
    tables = {}
    key = ["claim", "method", "budget", "metric"]
    for name, every in found.items():
        numbers = [
            one
            for one in every
            if rules.rule(table=name, column=one.column, metric=one.row.split(_BETWEEN)[key.index("metric")]).compared
        ]
        columns = list(dict.fromkeys(one.column for one in numbers))
        rows: dict[str, list[Cell]] = {one.row: [None] * len(columns) for one in numbers}
        for one in numbers:
            rows[one.row][columns.index(one.column)] = _cell(one.value)
        if columns:
            tables[name] = Table(key=key, columns=columns, rows=rows)
    return tables


def _numbers(value: Mapping[str, Any], row: str) -> Iterator[_Claim]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _numbers(inner, f"{row}{_BETWEEN}{name}")
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            yield _Claim(row, name, inner)


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference as JSON with a line a row."""
    value = reference.model_dump(by_alias=True)
    tables = value.pop("tables")
    head = json.dumps(value, ensure_ascii=False, indent=1)[: -len("\n}")]
    parts = []
    for name, table in tables.items():
        rows = ",\n".join(f"   {_short(row)}: {_short(cells)}" for row, cells in table["rows"].items())
        parts.append(
            f'  {_short(name)}: {{\n   "key": {_short(table["key"])},\n   "columns": {_short(table["columns"])},\n'
            f'   "rows": {{\n{rows}\n   }}\n  }}'
        )
    write_text(path, f'{head},\n "tables": {{\n' + ",\n".join(parts) + "\n }\n}\n")


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def read_reference(path: Path) -> Reference:
    """Read a reference.

    Raises
    ------
    CraneError : no such file, or not a reference
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CraneError(f"{path}: is not a reference (expected schema {SCHEMA!r}); crane reference makes one of a run")
    try:
        return Reference.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CraneError(f"{path}: {place}: {first['msg']}; make it again with crane reference") from error
