"""Check of a finished run: its files against its manifest, and its numbers against those of a reference run.

A reference is what is kept of a run: settings, verdicts and the numbers of its tables. A run is compared by making the
same of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
NO_REFERENCE = "none"
DIGITS = 6  # significant digits that are kept
_ROWS = ("results.csv", "langspec.csv")  # one row per draw; kept as the mean over draws
_DRAW = "random_seed"
_CLAIMS = "claims.json"
_BETWEEN = " / "
_CLAIM_KEY = ["claim", "method", "budget", "metric"]
_NOT_COMPARED = (*TOLD, "device")  # settings of a profile that do not change numbers
Cell = float | int | str | None


class ReferenceTable(BaseModel):
    """Numbers of one table: one list per row, in the order of `columns`; `key` are the columns that name a row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: list[str]
    columns: list[str]
    rows: dict[str, list[Cell]]

    def metric(self, row: str) -> str:
        """Metric of a row, empty where the table names none."""
        return row.split(_BETWEEN)[self.key.index("metric")] if "metric" in self.key else ""

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
    tables: dict[str, ReferenceTable]
    sha256: dict[str, str]  # for information: another machine may round differently


def reference_of(folder: Path, manifest: Manifest, *, rules: Reproduction) -> Reference:
    """Settings, verdicts and numbers of the run in a folder; `rules` say which columns are compared."""
    return Reference(
        profile=manifest.profile,
        made_with=made_with(manifest),
        verdicts=_verdicts(folder),
        tables=_tables(folder, rules=rules),
        sha256=_hashes(manifest),
    )


def made_with(manifest: Manifest) -> dict[str, Any]:
    """Commit, packages, processor, threads, jobs and GPUs, on which numbers may depend besides source and data."""
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
    """Hashes of the files made before any arithmetic, and of every table."""
    made = {name: value for stage in manifest.stages for name, value in stage.outputs.items()}
    starts = (f"{STAGES}/corpus/", f"{STAGES}/benchmarks/")
    found = {name: value for name, value in made.items() if name.startswith(starts)}
    return found | {name: value for name, value in manifest.outputs.items() if name.endswith(".csv")}


def _verdicts(folder: Path) -> dict[str, str]:
    """Verdict of every claim, method, budget and measure; empty where no claim was judged."""
    path = folder / _CLAIMS
    return {_case(item): str(item["verdict"]) for item in read_claims(path)} if path.is_file() else {}


def _case(item: Mapping[str, Any]) -> str:
    return _BETWEEN.join(str(item[name]) or "-" for name in ("id", "method", "budget", "measure"))


def _tables(folder: Path, *, rules: Reproduction) -> dict[str, ReferenceTable]:
    """Numbers of every CSV file of a run and of its claims, without the columns that are not compared."""
    found = {}
    for name in [*_ROWS, *(f"tables/{path.name}" for path in sorted((folder / "tables").glob("*.csv")))]:
        path = folder / name
        if not path.is_file():
            continue
        try:
            frame = read_frame(path)
        except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are of the first kind
            raise CraneError(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:120]})") from error
        if table := _table(frame, name, rules=rules):
            found[name] = table
    return found | (_claim_tables(read_claims(folder / _CLAIMS), rules=rules) if (folder / _CLAIMS).is_file() else {})


def _table(frame: pd.DataFrame, name: str, *, rules: Reproduction) -> ReferenceTable | None:
    """Numbers and texts of a frame; None where no column of it is compared."""
    key = [str(column) for column in frame.columns if rules.names_row(table=name, column=str(column))]
    if name in _ROWS:
        key = [column for column in key if column != _DRAW]
        frame = _over_draws(frame, key)
    metrics = [str(value) for value in frame["metric"]] if "metric" in key else [""] * len(frame)
    compared = {
        column: {
            metric: rules.compares(table=name, column=column, metric=metric, number=is_numeric_dtype(frame[column]))
            for metric in set(metrics)
        }
        for column in map(str, frame.columns)
        if column not in key and not rules.names_row(table=name, column=column) and column != _DRAW
    }
    found = [column for column, by_metric in compared.items() if any(by_metric.values())]
    if not found:
        return None
    rows: dict[str, list[Cell]] = {}
    for metric, record in zip(metrics, frame.to_dict("records"), strict=True):
        row = _free(_BETWEEN.join(_text(record[column]) for column in key), rows)
        rows[row] = [_cell(record[column]) if compared[column][metric] else None for column in found]
    return ReferenceTable(key=key, columns=found, rows=rows)


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
    """Name of a row, with a number if it is taken."""
    name, number = row, 2
    while name in rows:
        name, number = f"{row} #{number}", number + 1
    return name


def _cell(value: Any) -> Cell:
    """Round a number to the digits that are kept; a missing one is None."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return None
    number = float(f"{float(value):.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _claim_tables(verdicts: list[dict[str, Any]], *, rules: Reproduction) -> dict[str, ReferenceTable]:
    """Numbers of the verdicts, one table per claim."""
    found: dict[str, dict[str, dict[str, float]]] = {}  # table -> row -> column -> number
    for item in verdicts:
        name = f"{_CLAIMS} {item['id']}"
        for row, column, value in _numbers(item["numbers"], _case(item)):
            metric = row.split(_BETWEEN)[_CLAIM_KEY.index("metric")]
            if rules.rule(table=name, column=column, metric=metric).compared:
                found.setdefault(name, {}).setdefault(row, {})[column] = value
    tables = {}
    for name, rows in found.items():
        columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
        cells = {row: [_cell(numbers.get(column)) for column in columns] for row, numbers in rows.items()}
        tables[name] = ReferenceTable(key=_CLAIM_KEY, columns=columns, rows=cells)
    return tables


def _numbers(value: Mapping[str, Any], row: str) -> Iterator[tuple[str, str, float]]:
    """Row, column and value of every number in the nested numbers of a verdict."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _numbers(inner, f"{row}{_BETWEEN}{name}")
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            yield row, name, inner


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference as JSON with one line per row."""
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
        raise CraneError(f"{path}: is not a reference (expected schema {SCHEMA!r}); crane reference writes one")
    try:
        return Reference.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CraneError(f"{path}: {place}: {first['msg']}; make it again with crane reference") from error


@dataclass(frozen=True)
class Difference:
    """A number, verdict, row or table that differs from the reference."""

    table: str
    row: str = ""
    column: str = ""
    value: Cell = None
    reference: Cell = None
    tolerance: float | None = None
    remark: str = ""  # what is wrong, where it is not a number beyond its tolerance

    @property
    def excess(self) -> float:
        """Difference divided by the tolerance; infinite where none is allowed or a number is missing."""
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
        shown = ["missing" if value is None else str(value) for value in (self.value, self.reference)]
        return f"{place}: {shown[0]}, reference {shown[1]}"


@dataclass
class Comparison:
    """Result of a comparison: differences that count, those given for information, and counts of numbers.

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
    reference: Reference, run: Reference, *, lacking: Mapping[str, str], rules: Reproduction, exact: bool = False
) -> Comparison:
    """Compare a run's settings, verdicts and numbers with those of a reference.

    Parameters
    ----------
    lacking : section number -> why it has no outputs; its tables are then not reported missing one by one
    exact : allow no difference in the digits that are kept
    """
    return _Comparer(rules, exact).compare(reference, run, lacking)


class _Comparer:
    """One comparison at work."""

    def __init__(self, rules: Reproduction, exact: bool) -> None:
        self._rules, self._exact = rules, exact
        self._found = Comparison()

    def compare(self, reference: Reference, run: Reference, lacking: Mapping[str, str]) -> Comparison:
        found = self._found
        self._settings(run.profile, reference.profile)
        for number, why in lacking.items():
            self._differs(f"section {number}", remark=why)
        for name, expected in reference.tables.items():
            if name in run.tables:
                found.tables += 1
                self._table(name, run.tables[name], expected)
            elif name.removeprefix("tables/")[:2] not in lacking:
                self._differs(name, remark="is missing; the reference has it")
        new = [name for name in run.tables if name not in reference.tables]
        found.information += [Difference(name, remark="is new; the reference does not have it") for name in new]
        informative = reference.profile.get("name") in self._rules.verdicts_as_information and not self._exact
        self._verdicts(run.verdicts, reference.verdicts, found.information if informative else found.differences)
        found.differences.sort(key=lambda one: -one.excess)  # stable: what has no size stays first, in order
        return found

    def _differs(self, table: str, row: str = "", column: str = "", *, remark: str) -> None:
        self._found.differences.append(Difference(table, row, column, remark=remark))

    def _settings(self, ours: Mapping[str, Any], theirs: Mapping[str, Any], place: str = "") -> None:
        """Settings of the profile that differ from the reference's."""
        for name in sorted({*ours, *theirs}):
            where = f"{place}.{name}" if place else name
            one, other = ours.get(name), theirs.get(name)
            if where in _NOT_COMPARED or one == other:
                continue
            if isinstance(one, Mapping) and isinstance(other, Mapping):
                self._settings(one, other, where)
            else:
                self._differs("profile", "", where, remark=f"is {one!r}, the reference has {other!r}")

    def _table(self, name: str, ours: ReferenceTable, theirs: ReferenceTable) -> None:
        if ours.key != theirs.key:
            remark = f"rows are named by {', '.join(ours.key)}; in the reference by {', '.join(theirs.key)}"
            self._differs(name, remark=remark)
            return
        for column in theirs.columns:
            if column not in ours.columns:
                self._differs(name, "", column, remark="the column is missing")
        new = [column for column in ours.columns if column not in theirs.columns]
        self._found.information += [Difference(name, column=column, remark="the column is new") for column in new]
        for row in ours.rows:
            if row not in theirs.rows:
                self._differs(name, row, remark="the row is not in the reference")
        for row, cells in theirs.rows.items():
            if row not in ours.rows:
                self._differs(name, row, remark="the row is missing")
                continue
            values = dict(zip(ours.columns, ours.rows[row], strict=True))
            for column, cell in zip(theirs.columns, cells, strict=True):
                if column in values:
                    reach = self._rules.widening * theirs.half_width(row, column)
                    place = Difference(name, row, column, values[column], cell)
                    self._cell(place, metric=theirs.metric(row), reach=reach)

    def _cell(self, place: Difference, *, metric: str, reach: float) -> None:
        found, value, reference = self._found, place.value, place.reference
        where = {"table": place.table, "column": place.column, "metric": metric}
        if isinstance(value, str) or isinstance(reference, str):
            if value != reference and self._rules.compares(**where, number=False):
                (found.differences if self._exact else found.information).append(place)
            return
        if value is None and reference is None:
            return
        rule = self._rules.rule(**where)
        if not rule.compared:
            return
        found.numbers += 1
        if value is None or reference is None:
            found.differences.append(place)
            return
        tolerance = 0.0 if self._exact else rule.tolerance(reference, reach=reach)
        found.equal += value == reference
        found.zeros += reference == 0
        found.could_fail += abs(reference) > tolerance
        if abs(value - reference) > tolerance + 1e-12 * abs(reference):
            found.differences.append(replace(place, tolerance=tolerance))

    def _verdicts(self, ours: Mapping[str, str], theirs: Mapping[str, str], changed: list[Difference]) -> None:
        """Compare verdicts; a missing one always counts, one that is `changed` goes into the list given."""
        for case, verdict in theirs.items():
            self._found.verdicts += 1
            self._found.equal_verdicts += ours.get(case) == verdict
            if ours.get(case) != verdict:
                place = Difference(_CLAIMS, case, "verdict", ours.get(case), verdict)
                (changed if case in ours else self._found.differences).append(place)


@dataclass
class VerifiedRun:
    """Result of a check: what is wrong with a run (`problems`), `notes`, and the comparison of its numbers."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # sections that were never run
    files: int = 0  # that were checked
    manifest: Manifest | None = None
    reference: Reference | None = None
    against: str = ""
    comparison: Comparison | None = None

    @property
    def holds(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems and not (self.comparison and self.comparison.differences)

    @property
    def unfinished(self) -> str:
        """Sections that are missing and the command that runs them; empty if the run is complete."""
        if self.manifest is None or not self.absent:
            return ""
        count = f"{len(self.absent)} sections were" if len(self.absent) > 1 else "1 section was"
        profile, only = self.manifest.profile.get("name"), ",".join(name[:2] for name in self.absent)
        command = f"./run_all.sh --profile {profile} --only {only}"
        return f"{count} never run ({', '.join(self.absent)}); {command} runs what is lacking"


def verify(folder: Path, *, against: str = "", exact: bool = False) -> VerifiedRun:
    """Check a finished run.

    Parameters
    ----------
    folder : the run's folder
    against : a reference file, the folder of another run, ``none``, or empty for the profile's reference in
        ``expected/reference/``, if it has one
    exact : allow no difference in the digits that the reference keeps

    Raises
    ------
    CraneError : there is nothing to check, or the reference is not one or is of another profile
    """
    finding = VerifiedRun()
    try:
        manifest = read_manifest(folder)
    except DamagedManifestError as error:
        finding.problems.append(f"{error}; nothing else was checked")
        return finding
    finding.manifest = manifest
    profile = str(manifest.profile.get("name"))
    chosen, name = _reference(profile, against)
    finding.problems += _file_problems(folder, manifest, finding)
    finding.problems += [
        f"section {section.section}: {section.error or section.status}"
        for section in manifest.sections
        if section.status != "done"
    ]
    finding.absent = [section.name for section in absent_sections(one.section for one in manifest.sections)]
    finding.notes += [finding.unfinished] if finding.absent else []
    finding.notes += _leftovers(manifest)
    if chosen is None:
        finding.notes.append(f"its numbers were compared with nothing: {name}")
        return finding
    finding.reference, finding.against = chosen, name
    rules = load_tolerances().reproduction.of_profile(profile)
    ours = reference_of(folder, manifest, rules=rules)
    finding.comparison = compare(chosen, ours, lacking=_lacking(manifest, chosen), rules=rules, exact=exact)
    return finding


def _reference(profile: str, against: str) -> tuple[Reference | None, str]:
    """Reference for a run of a profile, and its name; or None, and why there is none."""
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


def _file_problems(folder: Path, manifest: Manifest, finding: VerifiedRun) -> Iterator[str]:
    """Files that are missing, changed, or unknown to the manifest."""
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
    """Every file of the stages except hidden ones (scratch folders of unfinished stages)."""
    for path in sorted(stages.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(stages).parts):
            yield path


def _record_problems(folder: Path, stage: StageRecord) -> Iterator[str]:
    """Disagreement of a stage's own record with the manifest."""
    name = f"{STAGES}/{stage.name}/{RECORD}"
    path = folder / name
    if not path.is_file():
        return  # reported with the other files
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
    """Stages made from others that are no longer here: left from earlier code or settings, or not yet made again."""
    known = {stage.key for stage in manifest.stages}
    known |= {model.fingerprint for model in manifest.models.values() if model.fingerprint}
    notes = []
    for stage in manifest.stages:
        gone = sorted(role for role, key in stage.inputs.items() if key not in known)
        if gone:
            notes.append(
                f"{STAGES}/{stage.name}: was made from another {', '.join(gone)} than is here; it is left from an "
                "earlier run, or its section has yet to be run again"
            )
    return notes


def _lacking(manifest: Manifest, reference: Reference) -> dict[str, str]:
    """Sections of which the reference has tables and this run has none, with the reason."""
    ran = {section.section[:2]: section for section in manifest.sections}
    expected = {name.removeprefix("tables/")[:2] for name in reference.tables if name.startswith("tables/")}
    lacking = {}
    for number in sorted(expected):
        if number not in ran:
            lacking[number] = "was not run; the reference has its tables"
        elif ran[number].status != "done":
            lacking[number] = "failed; the reference has its tables"
    return lacking
