"""A run: the sections that are not up to date are executed, several at once if asked, and everything is recorded."""

from __future__ import annotations

import datetime
import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, sha256, write_json, write_text
from crane_run.console import Console, shown
from crane_run.manifest import REPORTS, SEEDS, describe_run, is_current, write_manifest
from crane_run.notebook import Execution, check_parameters, known_parameters
from crane_run.schedule import REST, Board, Row, disk_free, disk_needed, size_text
from crane_run.sections import Section, all_sections
from crane_run.times import REPORT, Times
from crane_study.checkpoints import CARD, checkpoints_root
from crane_study.fingerprints import sealed, whole_object
from crane_study.machine import RUNTIME, THREADS_VARIABLE, all_threads, cores_are_limited, granted_memory
from crane_study.profile import TOLD, EmbeddedSource, LocalSource, Profile
from crane_study.progress import FILE_VARIABLE, SOON, Report, forget_report, progress, read_report
from crane_study.publish import CAPTIONS, COLUMNS, NOT_RUN_FILE, forget_not_run, read_object
from crane_study.store import (
    RECORD,
    SECTION_VARIABLE,
    START_VARIABLE,
    Store,
    complete,
    forget,
    library_versions,
    remove_partial,
)

_MOST_JOBS = 4  # sections that do not wait for one another
_MEMORY_A_JOB = 2_000_000_000  # bytes; a section of an embedded model takes less than half of it
_NUMBERED = ("tables", "figures")  # folders whose files begin with the section's number
_SHARED = (CAPTIONS, f"tables/{COLUMNS}", NOT_RUN_FILE)  # files in which every section has entries
_TICK = 0.2  # seconds between looks at what is at work
Before = dict[Path, tuple[int, int]]  # states of files


@dataclass
class Run:
    """One start of the study: a profile, its folder, the sections asked for, and how many of them run at once."""

    profile: Profile
    folder: Path
    sections: list[Section]
    parameters: dict[str, Any] = field(default_factory=dict)
    jobs: int = 1

    @property
    def threads(self) -> int:
        """Threads of a section: its share when `jobs` of them run at once, also where fewer are asked for."""
        return max(1, all_threads() // self.jobs)

    @cached_property
    def times(self) -> Times:
        """Times of the sections on this machine, as far as they are known."""
        return Times(self.folder.parent, self.profile, threads=self.threads, jobs=self.jobs)

    def record_path(self, section: Section) -> Path:
        """File with the record of a section."""
        return self.folder / "sections" / f"{section.name}.json"

    def record(self, section: Section) -> dict[str, Any] | None:
        """Record of a section's last execution, None if there is none or it is damaged."""
        return whole_object(self.record_path(section))

    def executed_path(self, section: Section) -> Path:
        """The section's executed notebook."""
        return self.folder / "notebooks" / f"{section.name}.ipynb"

    def key(self, section: Section) -> str:
        """Key of what a section would make now."""
        known = known_parameters(section.path) if self.parameters else []
        given = {name: value for name, value in self.parameters.items() if name in known}
        profile = {name: value for name, value in self.profile.resolved().items() if name not in TOLD}
        return section.key(profile, given, library_versions() | _outside(self.profile))

    def is_current(self, section: Section, key: str) -> bool:
        """Return whether the section's outputs are there as it made them, under this key.

        Of its stages only records and sizes are looked at; their content is, when a section reads them.
        """
        last = self.record(section) or {}
        if (last.get("status"), last.get("key")) != ("done", key):
            return False
        # A section that reads a judge's scores may have run without them.
        judged = self.profile.open_ended.judge != "offline"
        before = [other for other in all_sections() if other.number in section.after] if judged else []
        done = all((self.record(other) or {}).get("status") == "done" for other in before)
        stages = last.get("stages", {}).items()
        whole = all(complete(self.folder / "stages" / name, made, sizes_only=True) for name, made in stages)
        return done and whole and last.get("content") == self._content(section, last["outputs"])

    def _content(self, section: Section, outputs: list[str]) -> str:
        """Hash of a section's outputs and of its entries in the files that sections share; empty if one is damaged."""
        with suppress(CraneError, OSError):
            shared = [read_object(self.folder / name) for name in _SHARED]
            own = [{k: v for k, v in found.items() if Path(k).name.startswith(section.number)} for found in shared]
            return fingerprint([own, [sha256(self.folder / name) for name in outputs]])
        return ""

    def mark_running(self, section: Section) -> Before:
        """Distrust a section's outputs from here on: they are being replaced, and the run may be interrupted.

        Returns the states of the files that are there. What the section writes differs from them, whatever time the
        clocks of this machine and of a file server tell.
        """
        if (last := self.record(section)) is not None:
            write_json(self.record_path(section), sealed({**last, "status": "running"}))
        records = (self.folder / "stages").glob(f"*/{RECORD}")
        return {path: _state(path) for path in [*self._files(section), *records]}

    def _files(self, section: Section) -> list[Path]:
        """Files of a section in the run's folder, other than its notebook."""
        made = sorted(path for kind in _NUMBERED for path in (self.folder / kind).glob(f"{section.number}_*"))
        return made + [path for name in section.declared.outputs if (path := self.folder / name).is_file()]

    def keep(self, section: Section, record: dict[str, Any], *, before: Before) -> None:
        """Write the record of a section that ended, and remove outputs that are not of this execution."""
        if record["error"] is not None:  # made under another key; the report must not show them as current
            for name in (self.record(section) or {}).get("outputs", []):
                (self.folder / name).unlink(missing_ok=True)
            forget_not_run(self.folder, section.number)
        stages = Store(self.folder / "stages").records()
        own = {stage["name"]: stage for stage in stages if stage.get("section") == section.number}
        outputs = [] if record["error"] else self._outputs(section, before)
        about = {"section": section.name, "title": section.title, **record, "outputs": outputs}
        about |= {"stages": {name: stage["key"] for name, stage in own.items()}}
        write_json(self.record_path(section), sealed(about | {"content": self._content(section, outputs)}))
        if record["error"] is None:
            paths = {name: self.folder / "stages" / name / RECORD for name in own}
            made = {name: own[name]["seconds"] for name, path in paths.items() if before.get(path) != _state(path)}
            self.times.keep(made | {section.number: max(0.1, record["seconds"] - sum(made.values()))})

    def _outputs(self, section: Section, before: Before) -> list[str]:
        """List the files that a section made, relative to the run's folder; remove those that it no longer makes."""
        outputs = [self.executed_path(section)]
        for path in self._files(section):
            if before.get(path) == _state(path):
                path.unlink()
            else:
                outputs.append(path)
        return [str(path.relative_to(self.folder)) for path in outputs]


def _state(path: Path) -> tuple[int, int]:
    """State of a file that changes when it is written again."""
    about = path.stat()
    return about.st_ino, about.st_mtime_ns


def fitting_jobs(profile: Profile) -> int:
    """Number of sections at once that suits a profile and this machine."""
    # Small models gain little from a second core; larger ones use all cores and much memory by themselves.
    if not (isinstance(profile.source, EmbeddedSource) or profile.rehearsal):
        return 1
    return max(1, min(_MOST_JOBS, all_threads(), granted_memory() // _MEMORY_A_JOB))


def _outside(profile: Profile) -> dict[str, str]:
    """State of what a profile names from outside: sizes and times of files, cheap to read, and the judge."""
    paths = [*(profile.open_ended.questions or {}).values(), *filter(None, [profile.paper.lape_list])]
    if isinstance(source := profile.source, LocalSource):
        paths += [*source.texts.values(), *(source.questions or {}).values()]
        for folder in filter(None, (source.base_model, source.chat_model)):
            paths += sorted(folder.iterdir()) if folder.is_dir() else [folder]
    elif isinstance(source, EmbeddedSource):
        paths += sorted(checkpoints_root().glob(f"*/{CARD}"))
    judge = () if profile.open_ended.judge == "offline" else ("CRANE_JUDGE_URL", "CRANE_JUDGE_MODEL")
    found = {str(path): path.stat() for path in paths if path.is_file()}
    states = {name: f"{about.st_size}:{about.st_mtime_ns}" for name, about in found.items()}
    return {name: os.environ.get(name, "") for name in judge} | states


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the run's folder, so that two runs do not write into it at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout as error:
        raise CraneError(f"{folder}: another run is at work there; wait for it, or choose --artifacts") from error
    except OSError as error:
        raise CraneError(f"{folder}: cannot be written ({error.strerror}); choose another --artifacts") from error
    with held:
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, which stops a container, end a run as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_sections(run: Run, *, fresh: bool, console: Console, later: float = 0.0) -> int:
    """Run the sections that need it; return 0 if every section is done, 1 if one failed.

    `later` are the seconds of runs that follow, for the time left.

    After Ctrl-C or SIGTERM (KeyboardInterrupt) no process is left, and the next start continues from here.
    """
    with alone(run.folder), _interruptible():
        for section in run.sections if run.parameters else []:
            check_parameters(section.path, run.parameters)
        for path in run.folder.iterdir() if fresh else []:
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_partial(run.folder)
        forget(run.folder / "stages")  # of a start that was killed
        for name in _SHARED:  # a damaged one is made again by the sections whose entries it had
            try:
                read_object(run.folder / name)
            except CraneError:
                (run.folder / name).unlink()
        settings = yaml.safe_dump(run.profile.resolved(), allow_unicode=True, sort_keys=False)
        write_text(run.folder / "profile.yaml", settings)
        keys = {section.number: run.key(section) for section in run.sections}
        board = plan(run, keys)
        board.later = later + (run.times.expected(REPORT) or 0.0 if board.count("waiting") else 0.0)
        if board.count("waiting"):
            Execution.prepare()
        disk = disk_needed(run.profile, run.folder)
        about = f", {size_text(disk)} of disk ({size_text(disk_free(run.folder))} free)" if disk else ""
        console.start(run.profile.name, run.folder, board, disk=about)
        changed = board.count("waiting") > 0
        for name in REPORTS if changed else ():  # out of date from here on, also for a run that is interrupted
            (run.folder / name).unlink(missing_ok=True)
        _Work(run, keys, board, console).do()
        started = time.monotonic()
        with progress("Writing the reports", delay=SOON):
            finish(run, again=changed)
        if changed:
            run.times.keep({REPORT: time.monotonic() - started})
        console.finish(run.folder, board)
        return 1 if board.count("failed") else 0


def plan(run: Run, keys: dict[str, str], *, fresh: bool = False) -> Board:
    """Plan a run: its sections, whose `keys` are by number, with the work that each is expected to do.

    A stage is the work of the first section that asks for it; what the sections before would make, if they were run,
    is the work of the first that waits for them.
    """
    rows: list[Row] = []
    claimed: set[str] = set()
    declared = {section.number: section.declared.stages for section in all_sections()}
    run_now = {section.number for section in run.sections}
    for section in run.sections:
        row = Row(section.number, section.title)
        rows.append(row)
        if not fresh and run.is_current(section, keys[section.number]):
            row.state, row.seconds = "reused", (run.record(section) or {}).get("seconds", 0.0)
            claimed.update(section.declared.stages)
            continue
        if (rest := run.times.expected(section.number)) is None:
            continue
        before = [declared[number] for number in sorted(section.after - run_now)]
        names = [name for names in (*before, section.declared.stages) for name in names if name not in claimed]
        claimed.update(names)
        known = {name: seconds for name in names if (seconds := run.times.expected(name)) is not None}
        there = set() if fresh else {name for name in known if (run.folder / "stages" / name / RECORD).is_file()}
        row.work = {REST: rest} | {name: known[name] for name in known if name not in there}
        row.kept = {name: known[name] for name in there}
    after = {section.number: section.after for section in run.sections}
    board = Board(rows, after, run.jobs)
    if board.count("waiting"):
        board.pace = run.times.pace
    return board


@dataclass
class _Started:
    """A section at work."""

    row: Row
    execution: Execution
    progress: Path  # file with its progress
    began: str  # time of this machine
    before: Before


class _Work:
    """The executions of one start."""

    def __init__(self, run: Run, keys: dict[str, str], board: Board, console: Console) -> None:
        self._run, self._keys, self._board, self._console = run, keys, board, console
        self._sections = {section.number: section for section in run.sections}
        self._at_work: list[_Started] = []
        self._id = uuid.uuid4().hex

    def do(self) -> None:
        """Do all that is waiting on the board."""
        with self._console.watching(self._board):
            try:
                while self._board.count("waiting", "running"):
                    while (row := self._board.next()) is not None:
                        self._start(row)
                    self._board.look()
                    self._console.tell(self._board)
                    ended = [started for started in self._at_work if not started.execution.is_alive()]
                    for started in ended:
                        self._end(started)
                    if not ended:
                        time.sleep(_TICK)
            except BaseException:
                self._interrupt()
                raise
            finally:
                forget(self._run.folder / "stages")

    def _start(self, row: Row) -> None:
        run, section = self._run, self._sections[row.number]
        progress = run.folder / f".progress-{row.number}.json"
        before, began = run.mark_running(section), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        variables = {name: os.environ.get(name, value) for name, value in RUNTIME.items()}
        variables |= {FILE_VARIABLE: str(progress), SECTION_VARIABLE: section.number, START_VARIABLE: self._id}
        variables[THREADS_VARIABLE] = str(all_threads())
        if run.jobs > 1 or cores_are_limited():
            variables["OMP_NUM_THREADS"] = str(run.threads)
        execution = Execution(
            section.path,
            run.executed_path(section),
            # The resolved profile, so that notebook and runner cannot differ.
            {"profile": str(run.folder / "profile.yaml"), "artifacts": str(run.folder.parent), **run.parameters},
            variables=variables,
            log=run.folder / "logs" / f"{section.name}.log",
            heading=f"{row.number}  {row.title}, {run.threads} threads",
        )
        forget_report(progress)  # of a start that was killed

        def look() -> Report:
            report = read_report(progress)
            return report if report.line else replace(report, line=execution.last_line())

        row.start(look)
        self._at_work.append(_Started(row, execution, progress, began, before))
        self._console.started(row)

    def _end(self, started: _Started) -> None:
        run, row, execution = self._run, started.row, started.execution
        error = execution.result()
        self._at_work.remove(started)
        row.stop("failed" if error else "done")
        record = {"status": row.state, "error": error, "key": self._keys[row.number], "seconds": round(row.seconds, 2)}
        record |= {
            "started_at": started.began,
            "threads": run.threads,
            "jobs": run.jobs,
            "peak_memory_mib": execution.peak_memory_mib or None,
        }
        run.keep(self._sections[row.number], record, before=started.before)
        execution.close(f"{row.state} after {row.seconds:.1f} s{f': {error}' if error else ''}")
        forget_report(started.progress)
        if error is None:
            self._console.done(row)
        else:
            self._console.failed(row, error, notebook=execution.failed, log=execution.log)

    def _interrupt(self) -> None:
        """End what is at work, without a record of it: the next start does it again."""
        for started in self._at_work:
            started.execution.stop()
            started.row.stop("interrupted")
            started.execution.close(f"interrupted after {started.row.seconds:.1f} s", finished=False)
            forget_report(started.progress)


def finish(run: Run, *, again: bool) -> None:
    """Write reports and manifest from what is in the folder; if nothing changed, leave them alone."""
    from crane_run.report import write_reports

    if not again and is_current(run.folder):
        return
    records = [record for section in all_sections() if (record := run.record(section)) is not None]
    manifest = describe_run(run.folder, run.profile, records)
    write_reports(run.folder, manifest)
    write_manifest(run.folder, manifest)


def seed_run(run: Run, seed: int) -> Run:
    """Run of another random seed, in a folder of its own: ``mini-seed3`` beside ``mini``."""
    if not isinstance(run.profile.source, EmbeddedSource):
        raise CraneError(
            f"profile {run.profile.name} has models of its own, no seed changes them; only profiles whose model is "
            "trained on the spot (source.kind: embedded) can be repeated"
        )
    other = run.profile.model_copy(update={"name": f"{run.profile.name}-seed{seed}", "random_seed": seed})
    return replace(run, profile=other, folder=run.folder.with_name(other.name))


def seed_runs(run: Run, count: int) -> list[Run]:
    """Runs of the random seeds that follow the profile's own, with which settings and rules were chosen."""
    if count < 2:
        raise CraneError(f"--seeds {count}: expected 2 or more, for a deviation needs two")
    first = run.profile.random_seed + 1
    return [seed_run(run, seed) for seed in range(first, first + count)]


def run_seeds(run: Run, count: int, *, fresh: bool, console: Console) -> int:
    """Run the study for `count` random seeds (`seed_runs`), then write the summary into ``seeds/`` of the run's folder.

    Returns 0 if every section of every seed is done; else 1, and there is no summary.
    """
    runs, codes = seed_runs(run, count), []
    works = [plan(one, {section.number: one.key(section) for section in one.sections}, fresh=fresh) for one in runs]
    for number, one in enumerate(runs, start=1):
        console.say(f"Model seed {number} of {len(runs)} (random seed {one.profile.random_seed})")
        later = sum(board.left or 0.0 for board in works[number:])
        codes.append(run_sections(one, fresh=fresh, console=console, later=later))
    if max(codes):
        console.say("No summary over seeds: a section failed")
        return 1
    report = summarize(run, {one.profile.random_seed: one.folder for one in runs})
    console.say(f"Summary over {len(runs)} model seeds:")
    console.say(f"  {shown(report)}")
    return 0


def summarize(run: Run, folders: Mapping[int, Path]) -> Path:
    """Write the summary of the runs of several seeds into ``seeds/`` of the run's folder, and its reports again.

    Returns the path of the summary's report.
    """
    from crane_run.seeds import write_summary

    with alone(run.folder):
        report = write_summary(folders, run.folder / SEEDS)
        if any(run.record(section) for section in all_sections()):
            finish(run, again=True)
    return report
