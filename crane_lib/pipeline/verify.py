"""Is a finished run what its manifest says, and are its numbers those of a reference run?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256
from crane_lib.output.tolerances import load_tolerances
from crane_lib.pipeline.compare import Comparison, compare
from crane_lib.pipeline.manifest import STAGES, DamagedManifestError, output_files, read_manifest
from crane_lib.pipeline.manifest_schema import Manifest, StageRecord
from crane_lib.pipeline.reference import (
    REFERENCES,
    Reference,
    read_reference,
    reference_of,
    tables_of,
    verdicts_of,
)
from crane_lib.pipeline.sections import absent_sections
from crane_lib.pipeline.store import RECORD

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
