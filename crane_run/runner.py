"""Running the sections: reuse what is unchanged, several at once if asked, go on after a failure, say where all is."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json, write_text
from crane_run.console import Console, shown
from crane_run.manifest import REPORTS, describe_run, is_current, write_manifest
from crane_run.notebook import Kernels, NotebookError, SectionLog, check_parameters, execute, known_parameters
from crane_run.schedule import Board, Row, Times, disk_free, disk_needed, size_text, waits_for
from crane_run.sections import Section, all_sections
from crane_study.machine import (
    RUNTIME,
    THREADS_VARIABLE,
    all_threads,
    cores_are_limited,
    granted_memory,
    measuring_children,
)
from crane_study.profile import TOLD, EmbeddedSource, LocalSource, Profile
from crane_study.progress import FILE_VARIABLE, read_progress
from crane_study.publish import forget_not_run
from crane_study.store import RECORD, SECTION_VARIABLE, START_VARIABLE, forget, library_versions, remove_partial

MOST_JOBS = 4  # sections that do not wait for one another
_MEMORY_A_JOB = 2_000_000_000  # bytes; a section of an embedded model takes less than half of it
_KEPT = ("tables", "figures")


@dataclass
class Run:
    """One start of the study: a profile, its folder, the sections asked for, and how many of them work at once."""

    profile: Profile
    folder: Path
    sections: list[Section]
    parameters: dict[str, Any] = field(default_factory=dict)
    jobs: int = 1

    @property
    def threads(self) -> int:
        """Threads of a section: its share when `jobs` of them work at once, also where fewer are asked for."""
        return max(1, all_threads() // self.jobs)

    @cached_property
    def times(self) -> Times:
        """What is known of the sections' times on this machine."""
        return Times(self.folder.parent, self.profile, threads=self.threads)

    def expected(self, section: Section) -> float | None:
        """Seconds a section is likely to take if nothing can be reused, None if nobody knows."""
        return self.times.expected(section.number)

    def record_path(self, section: Section) -> Path:
        """File that says how a section went last."""
        return self.folder / "sections" / f"{section.name}.json"

    def record(self, section: Section) -> dict[str, Any] | None:
        """How a section went last, None if it never ran."""
        try:
            record = read_json(self.record_path(section))
        except (CraneError, NotADirectoryError):
            return None
        return record if isinstance(record, dict) else None

    def log_path(self, section: Section) -> Path:
        """File of what a section's cells print."""
        return self.folder / "logs" / f"{section.name}.log"

    def executed_path(self, section: Section) -> Path:
        """The section's executed notebook."""
        return self.folder / "notebooks" / f"{section.name}.ipynb"

    def key(self, section: Section) -> str:
        """Key of what a section would make now."""
        known = known_parameters(section.path) if self.parameters else []
        given = {name: value for name, value in self.parameters.items() if name in known}
        outside = {**library_versions(), **_outside(self.profile)}
        profile = {name: value for name, value in self.profile.resolved().items() if name not in TOLD}
        return section.key(profile, given, outside)

    def unchanged(self, section: Section, key: str) -> bool:
        """Whether the section's outputs are there and were made under this key."""
        last = self.record(section)
        return (
            last is not None
            and last.get("status") == "done"
            and last.get("key") == key
            and all((self.folder / name).is_file() for name in last["outputs"])
            and not self._lacks_scores(section)
        )

    def _lacks_scores(self, section: Section) -> bool:
        """Whether a section may have gone without a judge's scores: one that it reads has yet to get them."""
        if self.profile.open_ended.judge == "offline":
            return False
        before = waits_for(all_sections())[section.number]
        records = [self.record(other) for other in all_sections() if other.number in before]
        return any(record is None or record.get("status") != "done" for record in records)

    def mark_running(self, section: Section) -> float:
        """Distrust a section's outputs from here on: they are being replaced, and the run may be interrupted.

        Returns
        -------
        time of day by the clock that stamps the folder's files, which on a file server is not this machine's
        """
        last = self.record(section)
        if last is not None:
            write_json(self.record_path(section), {**last, "status": "running"})
        marker = self.folder / f".start-{section.number}"
        write_text(marker, section.name)
        since = marker.stat().st_mtime
        marker.unlink()
        return since

    def finish(
        self,
        section: Section,
        key: str,
        *,
        since: float,
        seconds: float,
        threads: int,
        error: str | None,
        peak_memory_mib: float | None = None,
    ) -> None:
        """Keep a record of how a section went, and take away outputs that are not this start's.

        Parameters
        ----------
        since : when it started, as `mark_running` said
        """
        if error is not None:  # made under another key; the report must not show them as today's
            for name in (self.record(section) or {}).get("outputs", []):
                (self.folder / name).unlink(missing_ok=True)
            forget_not_run(self.folder, section.number)
        record = {
            "section": section.name,
            "title": section.title,
            "status": "failed" if error else "done",
            "error": error,
            "key": key,
            "seconds": round(seconds, 2),
            "threads": threads,
            "jobs": self.jobs,
            "peak_memory_mib": peak_memory_mib,
            "outputs": [] if error else self._outputs(section, since),
        }
        write_json(self.record_path(section), record)
        if error is None:
            self.times.keep(section.number, self._cold_seconds(section, since, seconds))

    def _outputs(self, section: Section, since: float) -> list[str]:
        """Files that a section made, relative to the run's folder; those that it no longer makes go."""
        outputs = [str(self.executed_path(section).relative_to(self.folder))]
        for kind in _KEPT:
            for path in sorted((self.folder / kind).glob(f"{section.number}_*")):
                if path.stat().st_mtime < since - 1:
                    path.unlink()
                else:
                    outputs.append(str(path.relative_to(self.folder)))
        # Files for all of the run lie beside the folders; they are of the section whose code names them.
        code = "\n".join(section.sources("code"))
        return outputs + sorted(
            path.name
            for path in self.folder.glob("*.*")
            if path.is_file() and f'"{path.name}"' in code and path.stat().st_mtime >= since - 1
        )

    def _cold_seconds(self, section: Section, since: float, seconds: float) -> float:
        """Seconds that a section takes when none of its stages can be reused: its own, and those of all its stages."""
        for path in (self.folder / "stages").glob(f"*/{RECORD}"):
            stage = read_json(path)
            if stage.get("section") == section.number and path.stat().st_mtime < since:
                seconds += stage["seconds"]
        return seconds


def fitting_jobs(profile: Profile) -> int:
    """How many sections at once suit a profile and this machine.

    Small models gain little from a second core, so a section has one where models are small. Larger ones use all
    cores by themselves, and several of them may not fit into the memory.
    """
    if not (isinstance(profile.source, EmbeddedSource) or profile.rehearsal):
        return 1
    return max(1, min(MOST_JOBS, all_threads(), granted_memory() // _MEMORY_A_JOB))


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


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, with which a container is stopped, end a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_sections(run: Run, *, fresh: bool, console: Console) -> int:
    """Run the sections that need it.

    Returns
    -------
    0 if every section is done, 1 if one failed

    Raises
    ------
    KeyboardInterrupt : Ctrl-C or SIGTERM; no kernel is left, and the next start goes on from here
    """
    with alone(run.folder), _interruptible():
        if run.parameters:
            for section in run.sections:
                check_parameters(section.path, run.parameters)
        if fresh:
            for path in run.folder.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_partial(run.folder)
        forget(run.folder / "stages")  # of a start that was killed
        write_text(
            run.folder / "profile.yaml", yaml.safe_dump(run.profile.resolved(), allow_unicode=True, sort_keys=False)
        )
        keys = {section.number: run.key(section) for section in run.sections}
        board = plan(run, keys)
        console.start(run.profile.name, run.folder, board, disk=_disk_text(run))
        changed = board.count("waiting") > 0
        if changed:  # what it says is out of date from here on, also for a run that is interrupted
            for name in REPORTS:
                (run.folder / name).unlink(missing_ok=True)
        _Work(run, keys, board, console).do()
        finish(run, again=changed)
        console.finish(run.folder, board)
        return 1 if board.count("failed") else 0


def plan(run: Run, keys: dict[str, str], *, fresh: bool = False) -> Board:
    """Sections of a run with what they will take, and those that are reused.

    Parameters
    ----------
    keys : of what each section would make, by its number
    fresh : nothing is reused
    """
    rows = []
    for section in run.sections:
        row = Row(section.number, section.title)
        if not fresh and run.unchanged(section, keys[section.number]):
            row.state, row.seconds = "reused", (run.record(section) or {}).get("seconds", 0.0)
        else:
            row.expected = run.expected(section)
        rows.append(row)
    after = waits_for(all_sections()) if run.jobs > 1 else {}
    return Board(rows, after, run.jobs)


def _disk_text(run: Run) -> str:
    """What a run may still write and what is free, where the profile says what it needs."""
    needed = disk_needed(run.profile, run.folder)
    return f", {size_text(needed)} of disk ({size_text(disk_free(run.folder))} free)" if needed else ""


@dataclass
class _Started:
    """A section at work."""

    section: Section
    row: Row
    log: SectionLog
    threads: int
    since: float  # by the clock of the run's folder
    peak_memory_mib: float | None = None


class _Work:
    """The sections of one start, done by threads that wait for a kernel each; all records are kept by this thread."""

    def __init__(self, run: Run, keys: dict[str, str], board: Board, console: Console) -> None:
        self._run, self._keys, self._board, self._console = run, keys, board, console
        self._kernels = Kernels()
        self._at_work: dict[Future[str | None], _Started] = {}
        self._sections = {section.number: section for section in run.sections}
        self._id = uuid.uuid4().hex

    def do(self) -> None:
        """Do all that is waiting on the board."""
        with self._console.watching(self._board), ThreadPoolExecutor(self._run.jobs) as pool:
            try:
                while self._board.count("waiting", "running"):
                    while (row := self._board.next()) is not None:
                        self._start(row, pool)
                    done, _ = wait(self._at_work, return_when=FIRST_COMPLETED)
                    for future in done:
                        error = future.result()  # raises what is no failure of a cell
                        self._end(self._at_work.pop(future), error)
            except BaseException:
                self._interrupt()
                raise
            finally:
                forget(self._run.folder / "stages")

    def _start(self, row: Row, pool: ThreadPoolExecutor) -> None:
        run, section = self._run, self._sections[row.number]
        since = run.mark_running(section)
        threads = run.threads
        log = SectionLog(run.log_path(section), heading=f"{row.number}  {row.title}, {threads} threads")
        progress_file = self._progress_file(section)
        row.start(lambda: read_progress(progress_file) or log.last)
        started = _Started(section, row, log, threads, since)
        self._at_work[pool.submit(self._execute, started)] = started

    def _progress_file(self, section: Section) -> Path:
        return self._run.folder / f".progress-{section.number}.json"

    def _execute(self, started: _Started) -> str | None:
        """Execute a section, in a thread of the pool; returns its error, None if it is done."""
        run, section = self._run, started.section
        # The resolved profile, so that notebook and runner cannot differ.
        parameters = {
            "profile": str(run.folder / "profile.yaml"),
            "artifacts": str(run.folder.parent),
            **run.parameters,
        }
        variables = {
            FILE_VARIABLE: str(self._progress_file(section)),
            SECTION_VARIABLE: section.number,
            START_VARIABLE: self._id,
            THREADS_VARIABLE: str(all_threads()),
            **{name: os.environ.get(name, value) for name, value in RUNTIME.items()},
        }
        if run.jobs > 1 or cores_are_limited():
            variables["OMP_NUM_THREADS"] = str(started.threads)
        with measuring_children(FILE_VARIABLE, variables[FILE_VARIABLE]) as peak:
            error = self._error_of(started, parameters, variables)
        started.peak_memory_mib = peak.rounded()
        return error

    def _error_of(self, started: _Started, parameters: dict[str, Any], variables: dict[str, str]) -> str | None:
        try:
            execute(
                started.section.path,
                self._run.executed_path(started.section),
                parameters,
                variables=variables,
                log=started.log,
                kernels=self._kernels,
            )
        except NotebookError as problem:
            return str(problem)
        return None

    def _end(self, started: _Started, error: str | None) -> None:
        run, section, row = self._run, started.section, started.row
        row.stop("failed" if error else "done")
        run.finish(
            section,
            self._keys[row.number],
            since=started.since,
            seconds=row.seconds,
            threads=started.threads,
            peak_memory_mib=started.peak_memory_mib,
            error=error,
        )
        with started.log as log:
            log.end(f"{row.state} after {row.seconds:.1f} s{f': {error}' if error else ''}")
        self._progress_file(section).unlink(missing_ok=True)
        if error is None:
            self._console.done(row)
        else:
            executed = run.executed_path(section)
            notebook = executed.with_name(f"{executed.stem}.failed.ipynb")
            self._console.failed(row, error, notebook=notebook, log=log.path)

    def _interrupt(self) -> None:
        """End what is at work, without a record of it: the next start does it again."""
        self._kernels.stop()
        wait(self._at_work)
        for started in self._at_work.values():
            if started.row.state == "running":
                started.row.stop("interrupted")
            with started.log as log:
                log.note(f"interrupted after {started.row.seconds:.1f} s")
            self._progress_file(started.section).unlink(missing_ok=True)


def finish(run: Run, *, again: bool) -> None:
    """Write reports and manifest from what is in the folder; if nothing changed, leave them alone."""
    from crane_run.report import write_reports

    if not again and is_current(run.folder) and all((run.folder / name).is_file() for name in REPORTS):
        return
    records = [record for section in all_sections() if (record := run.record(section)) is not None]
    manifest = describe_run(run.folder, run.profile, records)
    write_reports(run.folder, manifest)
    write_manifest(run.folder, manifest)


LEAST = 2  # seeds that have a deviation


def seed_profiles(profile: Profile, count: int) -> list[Profile]:
    """The profile with `count` random seeds in a row; the first is the profile as it is, the others are named after.

    Raises
    ------
    CraneError : the profile's models are not trained here, or fewer than two seeds are asked for
    """
    if not isinstance(profile.source, EmbeddedSource):
        raise CraneError(
            f"--seeds: profile {profile.name} has models of its own, no seed changes them; only profiles whose model "
            "is trained on the spot (source.kind: embedded) can be repeated"
        )
    if count < LEAST:
        raise CraneError(f"--seeds {count}: expected {LEAST} or more, for a deviation needs two")
    seeds = range(profile.random_seed, profile.random_seed + count)
    return [
        profile
        if number == 0
        else profile.model_copy(update={"name": f"{profile.name}-seed{seed}", "random_seed": seed})
        for number, seed in enumerate(seeds)
    ]


def seed_runs(run: Run, count: int) -> list[Run]:
    """One run a seed, beside one another: ``mini``, ``mini-seed1``, ``mini-seed2``."""
    return [
        replace(run, profile=profile, folder=run.folder.with_name(profile.name))
        for profile in seed_profiles(run.profile, count)
    ]


def run_seeds(run: Run, count: int, *, fresh: bool, console: Console) -> int:
    """Run the study for every seed, then write the summary into ``seeds/`` of the first one's folder.

    What is done already is used again, seed by seed. Without claims of every seed there is no summary.

    Returns
    -------
    0 if every section of every seed is done, 1 if one failed
    """
    from crane_run.seeds import missing_results, write_summary

    runs = seed_runs(run, count)
    codes = []
    for number, one in enumerate(runs, start=1):
        console.say(f"Model seed {number} of {count} (random seed {one.profile.random_seed})")
        codes.append(run_sections(one, fresh=fresh, console=console))
    folders: dict[int, Path] = {one.profile.random_seed: one.folder for one in runs}
    lacking = missing_results(folders)
    if max(codes) or lacking:
        console.say(f"No summary over seeds: {lacking or 'a section failed'}")
        return 1 if max(codes) else 0
    first = runs[0]
    with alone(first.folder):
        report = write_summary(folders, first.folder / "seeds", budget=first.profile.selection.budget)
        finish(first, again=True)
    console.say(f"Summary over {count} model seeds:")
    console.say(f"  {shown(report)}")
    return 0
