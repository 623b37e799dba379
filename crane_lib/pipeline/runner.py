"""Running the sections in order: reuse what is unchanged, go on after a failure, say where everything is."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json, write_text
from crane_lib.pipeline.console import Console
from crane_lib.pipeline.manifest import write_manifest
from crane_lib.pipeline.notebook import NotebookError, check_parameters, execute
from crane_lib.pipeline.sections import Section, all_sections
from crane_lib.pipeline.store import library_versions, remove_partial
from crane_lib.profile import LocalSource, Profile

_TOLD = ("description", "expected_seconds")  # what a profile tells people; no result depends on it
_KEPT = ("tables", "figures")
REPORTS = ("report.md", "report.html")
_SHARED = ("captions.json", "manifest.json")  # files that no one section makes


@dataclass
class Run:
    """One start of the study: a profile, its folder, and the sections asked for."""

    profile: Profile
    folder: Path
    sections: list[Section]
    parameters: dict[str, Any] = field(default_factory=dict)

    def record_path(self, section: Section) -> Path:
        """File that says how a section went last."""
        return self.folder / "sections" / f"{section.name}.json"

    def record(self, section: Section) -> dict[str, Any] | None:
        """How a section went last, None if it never ran."""
        try:
            record = read_json(self.record_path(section))
        except CraneError:
            return None
        return record if isinstance(record, dict) else None

    def expected(self, section: Section) -> float | None:
        """Seconds a section is likely to take: as long as last time, else as the profile says."""
        last = self.record(section)
        seconds = (last or {}).get("seconds") or self.profile.expected_seconds.get(section.number)
        return float(seconds) if seconds else None

    def key(self, section: Section) -> str:
        """Key of what a section would make now."""
        given = {name: value for name, value in self.parameters.items() if name in self._known(section)}
        outside = {**library_versions(), **_outside(self.profile)}
        profile = {name: value for name, value in self.profile.resolved().items() if name not in _TOLD}
        return section.key(profile, given, outside)

    def _known(self, section: Section) -> list[str]:
        from crane_lib.pipeline.notebook import known_parameters

        return known_parameters(section.path) if self.parameters else []

    def unchanged(self, section: Section, key: str) -> bool:
        """Whether the section's outputs are there and were made under this key."""
        last = self.record(section)
        return (
            last is not None
            and last.get("status") == "done"
            and last.get("key") == key
            and all((self.folder / name).is_file() for name in last["outputs"])
        )


def _outside(profile: Profile) -> dict[str, str]:
    """State of what a profile names from outside: sizes and times of files, cheap to read, and the judge."""
    named = [*(profile.open_ended.questions or {}).values(), *filter(None, [profile.paper.lape_list])]
    asked = _state(named)
    if profile.open_ended.judge != "offline":
        asked |= {name: os.environ.get(name, "") for name in ("CRANE_JUDGE_URL", "CRANE_JUDGE_MODEL")}
    if not isinstance(profile.source, LocalSource):
        return asked
    source = profile.source
    paths = [*source.texts.values(), *(source.questions or {}).values()]
    for folder in (source.base_model, source.chat_model):
        if folder is not None and folder.is_dir():
            paths += sorted(path for path in folder.iterdir() if path.is_file())
    return asked | _state(paths)


def _state(paths: Iterable[Path]) -> dict[str, str]:
    return {str(path): f"{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in paths if path.is_file()}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the run's folder, so that two runs do not write into it at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise CraneError(f"{folder}: cannot be written ({error.strerror}); choose another --artifacts") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CraneError(f"{folder}: another run is at work there; wait for it, or choose --artifacts") from error
        yield


def run_sections(run: Run, *, fresh: bool, console: Console) -> int:
    """Run the sections that need it.

    Returns
    -------
    0 if every section is done, 1 if one failed
    """
    with alone(run.folder):
        if run.parameters:
            for section in run.sections:
                check_parameters(section.path, run.parameters)
        if fresh:
            for path in run.folder.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_partial(run.folder)
        write_text(
            run.folder / "profile.yaml", yaml.safe_dump(run.profile.resolved(), allow_unicode=True, sort_keys=False)
        )
        started = time.monotonic()
        console.start(run.profile.name, run.folder, [(s.number, s.title, run.expected(s)) for s in run.sections])
        failures = []
        changed = False
        for section in run.sections:
            key = run.key(section)
            if run.unchanged(section, key):
                console.reused(section.number, section.title, (run.record(section) or {})["seconds"])
                continue
            if not changed:  # what it says is out of date from here on, also for a run that is interrupted
                for name in REPORTS:
                    (run.folder / name).unlink(missing_ok=True)
            changed = True
            error = _run_one(run, section, key, console)
            if error is not None:
                failures.append((section, error))
        finish(run, again=changed)
        console.finish(run.folder, time.monotonic() - started, len(run.sections), failures)
        return 1 if failures else 0


def _run_one(run: Run, section: Section, key: str, console: Console) -> str | None:
    """Run a section and keep a record of it; returns the error, None if it is done."""
    executed = run.folder / "notebooks" / f"{section.name}.ipynb"
    # The resolved profile, so that notebook and runner cannot differ.
    parameters = {
        "profile": str(run.folder / "profile.yaml"),
        "artifacts": str(run.folder.parent),
        **run.parameters,
    }
    before, started, error = time.time(), time.monotonic(), None
    last = run.record(section)
    if last is not None:  # its outputs are being replaced; an interrupted run must not leave them trusted
        write_json(run.record_path(section), {**last, "status": "running"})
    progress_file = run.folder / f".progress-{section.number}.json"
    with console.running(section.number, section.title, run.expected(section), progress_file):
        try:
            execute(section.path, executed, parameters, progress_file=progress_file)
        except NotebookError as problem:
            error = str(problem)
    seconds = time.monotonic() - started
    if error is not None:
        for name in (last or {}).get("outputs", []):  # made under another key; the report must not show them as today's
            (run.folder / name).unlink(missing_ok=True)
    outputs = [str(executed.relative_to(run.folder))]
    for kind in _KEPT:
        for path in sorted((run.folder / kind).glob(f"{section.number}_*")):
            if path.stat().st_mtime < before - 1 and error is None:
                path.unlink()  # an output the section no longer makes
            else:
                outputs.append(str(path.relative_to(run.folder)))
    outputs += sorted(
        path.name
        for path in run.folder.glob("*.*")
        if path.suffix in (".json", ".csv") and path.name not in _SHARED and path.stat().st_mtime >= before - 1
    )
    record = {
        "section": section.name,
        "title": section.title,
        "status": "failed" if error else "done",
        "error": error,
        "key": key,
        "seconds": round(seconds, 2),
        "outputs": outputs if error is None else [],
    }
    write_json(run.record_path(section), record)
    if error is None:
        console.done(section.number, section.title, seconds)
        return None
    notebook = executed.with_name(f"{executed.stem}.failed.ipynb")
    console.failed(section.number, section.title, seconds, error, notebook)
    return f"{error} (see {notebook})"


def finish(run: Run, *, again: bool) -> None:
    """Write reports and manifest from what lies in the folder; left alone where nothing changed."""
    from crane_lib.output.html_report import write_html
    from crane_lib.output.report import write_report

    if not again and all((run.folder / name).is_file() for name in ("manifest.json", *REPORTS)):
        return
    records = [record for section in all_sections() if (record := run.record(section)) is not None]
    write_manifest(run.folder, run.profile, records)
    write_report(run.folder)
    write_html(run.folder)
    write_manifest(run.folder, run.profile, records)  # once more, now with the reports' hashes
