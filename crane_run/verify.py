"""Is a finished run what its manifest says, and are its numbers those of a reference run?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256, write_text
from crane_run.manifest import STAGES, DamagedManifestError, Manifest, StageRecord, output_files, read_manifest
from crane_run.sections import absent_sections
from crane_study import ROOT
from crane_study.frames import read_frame
from crane_study.paper.claims import read_claims
from crane_study.paper.tolerances import Reproduction, load_tolerances
from crane_study.profile import TOLD
from crane_study.store import RECORD

SCHEMA = "crane.reference/1"
REFERENCES = ROOT / "expected" / "reference"
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


_TOLD = (*TOLD, "device")  # settings of a profile that numbers do not follow from


@dataclass(frozen=True)
class Difference:
    """A number, verdict, row or table that is not as in the reference."""

    table: str
    row: str = ""
    column: str = ""
    value: Cell = None
    reference: Cell = None
    tolerance: float | None = None
    remark: str = ""  # what is wrong, where it is not a number beyond its tolerance

    @property
    def excess(self) -> float:
        """How many times the tolerance the difference is; infinite where none is allowed or a number is missing."""
        if not isinstance(self.value, int | float) or not isinstance(self.reference, int | float) or not self.tolerance:
            return math.inf
        return abs(self.value - self.reference) / self.tolerance

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.table, self.row, self.column) if part)
        if self.remark:
            return f"{place}: {self.remark}"
        if isinstance(self.value, int | float) and isinstance(self.reference, int | float):
            off = f"off by {abs(self.value - self.reference):.4g}, tolerance {self.tolerance:.4g}"
            return f"{place}: {self.value}, reference {self.reference} ({off})"
        return f"{place}: {_shown(self.value)}, reference {_shown(self.reference)}"


def _shown(value: Cell) -> str:
    return "missing" if value is None else str(value)


@dataclass
class Comparison:
    """What comparing found: differences that count, those told for information, and how many numbers were equal.

    `could_fail` counts the numbers that would have been out of tolerance had the run reported 0 for them: the power of
    the comparison. A number that is 0 in the reference cannot be among them.
    """

    differences: list[Difference] = field(default_factory=list)
    information: list[Difference] = field(default_factory=list)
    numbers: int = 0
    equal: int = 0  # to the last digit kept
    could_fail: int = 0
    zeros: int = 0  # in the reference
    tables: int = 0
    verdicts: int = 0
    equal_verdicts: int = 0


def compare(
    reference: Reference,
    *,
    tables: Mapping[str, Table],
    verdicts: Mapping[str, str],
    profile: Mapping[str, Any],
    lacking: Mapping[str, str],
    rules: Reproduction,
    exact: bool = False,
) -> Comparison:
    """Hold a run's numbers against a reference's.

    Parameters
    ----------
    tables, verdicts, profile : the run's (`crane_run.verify`)
    lacking : section number -> why it has no outputs; its tables are then not called missing one by one
    exact : allow no difference in the digits that are kept
    """
    found = Comparison()
    found.differences += _settings(profile, reference.profile)
    for number, why in lacking.items():
        found.differences.append(Difference(f"section {number}", remark=why))
    for name, expected in reference.tables.items():
        if name in tables:
            found.tables += 1
            _compare_table(name, tables[name], expected, found, rules=rules, exact=exact)
        elif name.removeprefix("tables/")[:2] not in lacking:
            found.differences.append(Difference(name, remark="is missing; the reference has it"))
    for name in tables:
        if name not in reference.tables:
            found.information.append(Difference(name, remark="is new; the reference does not have it"))
    told = reference.profile.get("name") in rules.verdicts_as_information and not exact
    _compare_verdicts(verdicts, reference.verdicts, found, told=told)
    found.differences.sort(key=lambda one: -one.excess)  # stable: what has no size stays first, in order
    return found


def _settings(ours: Mapping[str, Any], theirs: Mapping[str, Any], place: str = "") -> list[Difference]:
    """Settings of the profile that are not the reference's."""
    found = []
    for name in sorted({*ours, *theirs}):
        where = f"{place}.{name}" if place else name
        one, other = ours.get(name), theirs.get(name)
        if where in _TOLD or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _settings(one, other, where)
        else:
            found.append(Difference("profile", column=where, remark=f"is {one!r}, the reference has {other!r}"))
    return found


def _compare_table(
    name: str, ours: Table, theirs: Table, found: Comparison, *, rules: Reproduction, exact: bool
) -> None:
    if ours.key != theirs.key:
        remark = f"rows are named by {', '.join(ours.key)}; in the reference by {', '.join(theirs.key)}"
        found.differences.append(Difference(name, remark=remark))
        return
    missing = [column for column in theirs.columns if column not in ours.columns]
    found.differences += [Difference(name, column=column, remark="the column is missing") for column in missing]
    new = [column for column in ours.columns if column not in theirs.columns]
    found.information += [Difference(name, column=column, remark="the column is new") for column in new]
    for row in ours.rows:
        if row not in theirs.rows:
            found.differences.append(Difference(name, row, remark="the row is not in the reference"))
    for row, cells in theirs.rows.items():
        if row not in ours.rows:
            found.differences.append(Difference(name, row, remark="the row is missing"))
            continue
        values = dict(zip(ours.columns, ours.rows[row], strict=True))
        metric = theirs.metric(row)
        for column, cell in zip(theirs.columns, cells, strict=True):
            if column in values:
                place = Difference(name, row, column, values[column], cell)
                reach = rules.widening * theirs.half_width(row, column)
                _compare_cell(place, found, metric=metric, reach=reach, rules=rules, exact=exact)


def _compare_cell(
    place: Difference, found: Comparison, *, metric: str, reach: float, rules: Reproduction, exact: bool
) -> None:
    value, reference = place.value, place.reference
    where = {"table": place.table, "column": place.column, "metric": metric}
    if isinstance(value, str) or isinstance(reference, str):
        if value != reference and rules.compares(**where, number=False):
            (found.differences if exact else found.information).append(place)
        return
    if value is None and reference is None:
        return
    rule = rules.rule(**where)
    if not rule.compared:
        return
    found.numbers += 1
    if value is None or reference is None:
        found.differences.append(place)
        return
    tolerance = 0.0 if exact else rule.tolerance(reference, reach=reach)
    found.equal += value == reference
    found.zeros += reference == 0
    found.could_fail += abs(reference) > tolerance
    if abs(value - reference) > tolerance + 1e-12 * abs(reference):
        found.differences.append(Difference(place.table, place.row, place.column, value, reference, tolerance))


def _compare_verdicts(ours: Mapping[str, str], theirs: Mapping[str, str], found: Comparison, *, told: bool) -> None:
    """Verdicts count as they are, unless the profile's are `told` only; one that is missing counts always."""
    for case, verdict in theirs.items():
        found.verdicts += 1
        if case not in ours:
            found.differences.append(Difference("claims.json", case, "verdict", None, verdict))
        elif ours[case] != verdict:
            place = Difference("claims.json", case, "verdict", ours[case], verdict)
            (found.information if told else found.differences).append(place)
        else:
            found.equal_verdicts += 1


NO_REFERENCE = "none"


@dataclass
class Finding:
    """What is wrong with a run (`problems`), what is worth knowing (`notes`), and how its numbers compare."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # sections that were never run
    files: int = 0  # looked at
    manifest: Manifest | None = None
    reference: Reference | None = None
    against: str = ""
    comparison: Comparison | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not (self.comparison and self.comparison.differences)

    @property
    def unfinished(self) -> str:
        """Which sections are lacking and how to run them, empty where the run is whole."""
        if self.manifest is None or not self.absent:
            return ""
        count = f"{len(self.absent)} sections were" if len(self.absent) > 1 else "1 section was"
        profile, only = self.manifest.profile.get("name"), ",".join(name[:2] for name in self.absent)
        command = f"./run_all.sh --profile {profile} --only {only}"
        return f"{count} never run ({', '.join(self.absent)}); {command} runs what is lacking"


def verify(folder: Path, *, against: str = "", exact: bool = False) -> Finding:
    """Check a finished run.

    Parameters
    ----------
    folder : the run's folder
    against : a reference file, the folder of another run, ``none``, or empty for the profile's reference in
        ``expected/reference/``, if it has one
    exact : allow no difference from the reference in the digits that it keeps

    Raises
    ------
    CraneError : there is nothing to check, or what it is to be held against is no reference or of another profile
    """
    finding = Finding()
    try:
        manifest = read_manifest(folder)
    except DamagedManifestError as error:
        finding.problems.append(f"{error}; nothing else was checked")
        return finding
    finding.manifest = manifest
    chosen, name = _reference(str(manifest.profile.get("name")), against)
    for problem in _file_problems(folder, manifest, finding):
        finding.problems.append(problem)
    finding.problems += [
        f"section {section.section}: {section.error or section.status}"
        for section in manifest.sections
        if section.status != "done"
    ]
    finding.absent = [section.name for section in absent_sections(one.section for one in manifest.sections)]
    finding.notes += [finding.unfinished] if finding.absent else []
    finding.notes += _leftovers(manifest)
    if chosen is None:
        finding.notes.append(f"its numbers were held against nothing: {name}")
        return finding
    finding.reference, finding.against = chosen, name
    rules = load_tolerances().reproduction.of_profile(str(manifest.profile.get("name")))
    finding.comparison = compare(
        chosen,
        tables=tables_of(folder, rules=rules),
        verdicts=verdicts_of(folder),
        profile=manifest.profile,
        lacking=_lacking(manifest, chosen),
        rules=rules,
        exact=exact,
    )
    return finding


def _reference(profile: str, against: str) -> tuple[Reference | None, str]:
    """What a run of a profile is held against, and its name; or None, and why."""
    if against == NO_REFERENCE:
        return None, "as asked for"
    path = Path(against) if against else REFERENCES / f"{profile}.json"
    if path.is_dir():
        try:
            other = read_manifest(path)
        except DamagedManifestError as error:
            raise CraneError(f"--against: {error}") from error
        rules = load_tolerances().reproduction.of_profile(str(other.profile.get("name")))
        reference = reference_of(path, other, rules=rules)
    elif path.is_file() or against:
        reference = read_reference(path)
    else:
        return None, f"profile {profile} has no reference (expected/reference/{profile}.json)"
    name = reference.profile.get("name")
    if name != profile:
        raise CraneError(f"{path}: is of profile {name!r}, the run is of {profile!r}; give one of the same profile")
    return reference, str(path)


def _file_problems(folder: Path, manifest: Manifest, finding: Finding) -> Iterator[str]:
    """Files that are missing, changed, or not the run's."""
    listed = dict(manifest.outputs)
    if (folder / STAGES).is_dir():
        for stage in manifest.stages:
            listed |= stage.outputs | {f"{STAGES}/{stage.name}/{RECORD}": stage.record}
            yield from _record_problems(folder, stage)
    elif manifest.stages:
        finding.notes.append(f"{STAGES}/ is not here (as in an archive): {len(manifest.stages)} stages not checked")
    for name, expected in sorted(listed.items()):
        path = folder / name
        finding.files += 1
        if not path.is_file():
            yield f"{name}: is missing"
        elif sha256(path) != expected:
            yield f"{name}: was changed after the run ({path.stat().st_size} bytes now)"
    for path in [*output_files(folder), *_stage_files(folder / STAGES)]:
        name = str(path.relative_to(folder))
        if name not in listed:
            yield f"{name}: is not in the manifest"


def _stage_files(stages: Path) -> Iterable[Path]:
    """Every file of the stages but hidden ones (scratch folders of unfinished stages)."""
    for path in sorted(stages.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(stages).parts):
            yield path


def _record_problems(folder: Path, stage: StageRecord) -> Iterator[str]:
    """Whether a stage's own record says what the manifest says."""
    name = f"{STAGES}/{stage.name}/{RECORD}"
    path = folder / name
    if not path.is_file():
        return  # said with the other files
    try:
        record = read_json(path)
        outputs = {f"{STAGES}/{stage.name}/{file}": entry["sha256"] for file, entry in record["outputs"].items()}
        same = record["key"] == stage.key and record["inputs"] == stage.inputs and outputs == stage.outputs
    except (CraneError, KeyError, TypeError, AttributeError):
        yield f"{name}: is no complete record of a stage"
        return
    if not same:
        yield f"{name}: does not say what the manifest says of the stage; the stage was made again after the run"


def _leftovers(manifest: Manifest) -> list[str]:
    """Stages made from others that are not here: left from earlier code or settings, or not yet made again."""
    known = {stage.key for stage in manifest.stages}
    known |= {model.fingerprint for model in manifest.models.values() if model.fingerprint}
    notes = []
    for stage in manifest.stages:
        gone = sorted(role for role, key in stage.inputs.items() if key not in known)
        if gone:
            notes.append(
                f"{STAGES}/{stage.name}: was made from another {', '.join(gone)} than lies here; it is left from an "
                "earlier run, or its section has yet to be run again"
            )
    return notes


def _lacking(manifest: Manifest, reference: Reference) -> dict[str, str]:
    """Sections of which the reference has tables and this run has none, and why."""
    ran = {section.section[:2]: section for section in manifest.sections}
    expected = {name.removeprefix("tables/")[:2] for name in reference.tables if name.startswith("tables/")}
    lacking = {}
    for number in sorted(expected):
        if number not in ran:
            lacking[number] = "was not run; the reference has its tables"
        elif ran[number].status != "done":
            lacking[number] = "failed; the reference has its tables"
    return lacking
