"""Check of a finished run: its files against its manifest, and its numbers against those of a reference run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256
from crane_run.manifest import STAGES, DamagedManifestError, Manifest, StageRecord, output_files, read_manifest
from crane_run.references import (
    BETWEEN,
    CLAIMS,
    NO_REFERENCE,
    REFERENCES,
    Cell,
    Reference,
    ReferenceTable,
    read_reference,
    reference_of,
)
from crane_run.sections import absent_sections
from crane_study.paper.tolerances import Reproduction, load_tolerances
from crane_study.profile import TOLD
from crane_study.progress import SOON, progress
from crane_study.store import RECORD

_NOT_COMPARED = (*TOLD, "device", "source.weights")  # settings of a profile that do not change numbers


@dataclass(frozen=True)
class Difference:
    """A number, verdict, row or table that differs from the reference."""

    table: str
    row: str = ""
    column: str = ""
    value: Cell = None
    reference: Cell = None
    remark: str = ""  # what is wrong, where it is no value beside another
    off: float = math.inf  # difference of two numbers
    tolerance: float = 0.0  # of two numbers

    @property
    def excess(self) -> float:
        """Difference divided by the tolerance; infinite where none is allowed or a number is missing."""
        return self.off / self.tolerance if self.tolerance else math.inf

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.table, self.row, self.column) if part)
        if self.remark:
            return f"{place}: {self.remark}"
        value, reference = ("missing" if one is None else one for one in (self.value, self.reference))
        off = f" (off by {self.off:.4g}, tolerance {self.tolerance:.4g})" if math.isfinite(self.off) else ""
        return f"{place}: {value}, reference {reference}{off}"


@dataclass
class Comparison:
    """Comparison of a run with a reference: differences that count, those given for information, counts of numbers.

    `exact` allows no difference in the digits that are kept. `could_fail` counts the numbers that would have been out
    of tolerance had the run reported 0 for them: the power of the comparison. A number that is 0 in the reference
    cannot be among them.
    """

    rules: Reproduction
    exact: bool = False
    equal_weights: bool = False
    differences: list[Difference] = field(default_factory=list)
    information: list[Difference] = field(default_factory=list)
    numbers: int = 0
    equal: int = 0  # to the last digit kept
    could_fail: int = 0
    zeros: int = 0  # in the reference
    tables: int = 0
    verdicts: int = 0
    equal_verdicts: int = 0

    def add_table(self, name: str, ours: ReferenceTable, theirs: ReferenceTable) -> None:
        """Compare the rows of a table."""
        self.tables += 1
        if ours.key != theirs.key:
            remark = f"rows are named by {', '.join(ours.key)}; in the reference by {', '.join(theirs.key)}"
            self.differences.append(Difference(name, remark=remark))
            return
        lost = [column for column in theirs.columns if column not in ours.columns]
        self.differences += [Difference(name, "", column, remark="the column is missing") for column in lost]
        new = [column for column in ours.columns if column not in theirs.columns]
        self.information += [Difference(name, "", column, remark="the column is new") for column in new]
        unknown = [row for row in ours.rows if row not in theirs.rows]
        self.differences += [Difference(name, row, remark="the row is not in the reference") for row in unknown]
        metric = theirs.key.index("metric") if "metric" in theirs.key else None
        for row, cells in theirs.rows.items():
            if row not in ours.rows:
                self.differences.append(Difference(name, row, remark="the row is missing"))
                continue
            values = dict(zip(ours.columns, ours.rows[row], strict=True))
            for column, cell in zip(theirs.columns, cells, strict=True):
                if column in values:
                    reach = self.rules.widening * theirs.half_width(row, column)
                    place = Difference(name, row, column, values[column], cell)
                    self.add_cell(place, metric="" if metric is None else row.split(BETWEEN)[metric], reach=reach)

    def add_cell(self, place: Difference, *, metric: str, reach: float) -> None:
        """Compare the two values at a place; `reach` is half the width of the row's interval, widened."""
        value, reference = place.value, place.reference
        where = {"table": place.table, "column": place.column, "metric": metric}
        if isinstance(value, str) or isinstance(reference, str):
            if value != reference and self.rules.compares(**where, number=False):
                (self.differences if self.exact or self.equal_weights else self.information).append(place)
            return
        if value is None and reference is None:
            return
        rule = self.rules.rule(**where)
        if not rule.compared:
            return
        self.numbers += 1
        if value is None or reference is None:
            self.differences.append(place)
            return
        tolerance = 0.0 if self.exact else rule.tolerance(reference, reach=reach)
        self.equal += value == reference
        self.zeros += reference == 0
        self.could_fail += abs(reference) > tolerance
        off = abs(value - reference)
        if off > tolerance + 1e-12 * abs(reference):
            self.differences.append(replace(place, off=off, tolerance=tolerance))


def compare(
    reference: Reference, run: Reference, *, lacking: Mapping[str, str], rules: Reproduction, exact: bool = False
) -> Comparison:
    """Compare a run's settings, verdicts and numbers with those of a reference.

    `lacking` says by the number of a section why it has no outputs; its tables are then not reported one by one.
    Models with equal weights give the same numbers up to rounding; others are compared as effects.
    """
    equal_weights = bool(run.weights) and run.weights == reference.weights
    found = Comparison(rules.of_equal_weights() if equal_weights else rules, exact, equal_weights)
    rules = found.rules
    found.differences += _other_settings(run.profile, reference.profile)
    found.differences += [Difference(f"section {number}", remark=why) for number, why in lacking.items()]
    for name, theirs in reference.tables.items():
        if name in run.tables:
            found.add_table(name, run.tables[name], theirs)
        elif name.removeprefix("tables/")[:2] not in lacking:
            found.differences.append(Difference(name, remark="is missing; the reference has it"))
    new = [name for name in run.tables if name not in reference.tables]
    found.information += [Difference(name, remark="is new; the reference does not have it") for name in new]
    informative = reference.profile.get("name") in rules.verdicts_as_information and not exact
    for case, verdict in reference.verdicts.items():
        found.verdicts += 1
        found.equal_verdicts += run.verdicts.get(case) == verdict
        if run.verdicts.get(case) != verdict:
            counts = case not in run.verdicts or not informative  # a missing one always counts
            place = Difference(CLAIMS, case, "verdict", run.verdicts.get(case), verdict)
            (found.differences if counts else found.information).append(place)
    found.differences.sort(key=lambda one: -one.excess)  # stable: what has no size stays first, in order
    return found


def _other_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any], place: str = "") -> Iterator[Difference]:
    """Settings of the profile that differ from the reference's."""
    for name in sorted({*ours, *theirs}):
        where, one, other = f"{place}{name}", ours.get(name), theirs.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping) and where not in _NOT_COMPARED:
            yield from _other_settings(one, other, f"{where}.")
        elif one != other and where not in _NOT_COMPARED:
            yield Difference("profile", "", where, remark=f"is {one!r}, the reference has {other!r}")


@dataclass
class VerifiedRun:
    """Result of a check: what is wrong with a run (`problems`), `notes`, and the comparison of its numbers."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # sections that were never run
    unfinished: str = ""  # how many were never run, and the command that runs them
    files: int = 0  # that were checked
    manifest: Manifest | None = None
    reference: Reference | None = None
    against: str = ""
    comparison: Comparison | None = None

    @property
    def holds(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems and not (self.comparison and self.comparison.differences)


def verify(folder: Path, *, against: str = "", exact: bool = False) -> VerifiedRun:
    """Check a finished run; `exact` allows no difference in the digits that a reference keeps.

    `against` is a reference file, the folder of another run, ``none``, or empty for the profile's own reference, if it
    has one. A CraneError tells that there is nothing to check, or no reference of this profile.
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
    listed = dict(manifest.outputs)
    if (folder / STAGES).is_dir():
        for stage in manifest.stages:
            listed |= stage.outputs | {f"{STAGES}/{stage.name}/{RECORD}": stage.record}
    elif manifest.stages:
        finding.notes.append(f"{STAGES}/ is not here (as in an archive): {len(manifest.stages)} stages not checked")
    finding.files, finding.problems = len(listed), list(_file_problems(folder, manifest, listed))
    finding.problems += [
        f"section {section.section}: {section.error or section.status}"
        for section in manifest.sections
        if section.status != "done"
    ]
    finding.absent = [section.name for section in absent_sections(one.section for one in manifest.sections)]
    if finding.absent:
        count = f"{len(finding.absent)} sections were" if len(finding.absent) > 1 else "1 section was"
        command = f"./run_all.sh --profile {profile} --only {','.join(name[:2] for name in finding.absent)}"
        finding.unfinished = f"{count} never run ({', '.join(finding.absent)}); {command} runs what is lacking"
        finding.notes.append(finding.unfinished)
    finding.notes += _leftovers(manifest)
    if chosen is None:
        finding.notes.append(f"its numbers were compared with nothing: {name}")
        return finding
    finding.reference, finding.against = chosen, name
    rules = load_tolerances().reproduction.of_profile(profile)
    with progress("Comparing numbers", delay=SOON):
        ours, lacking = reference_of(folder, manifest), _lacking(manifest, chosen)
        finding.comparison = compare(chosen, ours, lacking=lacking, rules=rules, exact=exact)
    return finding


def whole_manifest(folder: Path) -> Manifest:
    """Manifest of a run all of whose files are as it says; anything else is a CraneError."""
    finding = verify(folder, against=NO_REFERENCE)
    damaged = [problem for problem in finding.problems if not problem.startswith("section ")]
    if finding.manifest is None or damaged:
        raise CraneError(f"{folder}: is not as it was made: {damaged[0]}; run it again")
    return finding.manifest


def _reference(profile: str, against: str) -> tuple[Reference | None, str]:
    """Reference for a run of a profile, and its name; or None, and why there is none."""
    if against == NO_REFERENCE:
        return None, "as asked for"
    path = Path(against) if against else REFERENCES / f"{profile}.json"
    if path.is_dir():
        reference = reference_of(path, whole_manifest(path))
    elif path.is_file() or against:
        reference = read_reference(path)
    else:
        return None, f"profile {profile} has no reference (expected/reference/{profile}.json)"
    name = reference.profile.get("name")
    if name != profile:
        raise CraneError(f"{path}: is of profile {name!r}, the run is of {profile!r}; give one of the same profile")
    return reference, str(path)


def _file_problems(folder: Path, manifest: Manifest, listed: Mapping[str, str]) -> Iterator[str]:
    """Files that are missing, changed, or not `listed` with their hash."""
    stages = folder / STAGES
    if stages.is_dir():
        for stage in manifest.stages:
            yield from _record_problems(folder, stage)
    with progress("Looking at files", len(listed), delay=SOON) as bar:
        for name, expected in sorted(listed.items()):
            path = folder / name
            if not path.is_file():
                yield f"{name}: is missing"
            elif sha256(path) != expected:
                yield f"{name}: was changed after the run ({path.stat().st_size} bytes now)"
            bar.advance()
    kept = [path for path in sorted(stages.rglob("*")) if path.is_file() and "/." not in f"/{path.relative_to(stages)}"]
    for path in [*output_files(folder), *kept]:  # hidden files are in scratch folders of unfinished stages
        name = str(path.relative_to(folder))
        if name not in listed:
            yield f"{name}: is not in the manifest"


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


def _leftovers(manifest: Manifest) -> Iterator[str]:
    """Stages made from others that are no longer here: left from earlier code or settings, or not yet made again."""
    known = {stage.key for stage in manifest.stages} | {model.fingerprint for model in manifest.models.values()}
    for stage in manifest.stages:
        if gone := sorted(role for role, key in stage.inputs.items() if key not in known):
            yield (
                f"{STAGES}/{stage.name}: was made from another {', '.join(gone)} than is here; it is left from an "
                "earlier run, or its section has yet to be run again"
            )


def _lacking(manifest: Manifest, reference: Reference) -> dict[str, str]:
    """Sections of which the reference has tables and this run has none, with the reason."""
    ran = {section.section[:2]: section.status for section in manifest.sections}
    expected = {name.removeprefix("tables/")[:2] for name in reference.tables if name.startswith("tables/")}
    return {
        number: f"{'failed' if number in ran else 'was not run'}; the reference has its tables"
        for number in sorted(expected)
        if ran.get(number) != "done"
    }
