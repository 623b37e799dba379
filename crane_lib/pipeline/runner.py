"""Running the sections: reuse what is unchanged, several at once if asked, go on after a failure, say where all is."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from crane_lib.errors import CraneError
from crane_lib.files import write_text
from crane_lib.pipeline.board import Board, Row
from crane_lib.pipeline.console import Console
from crane_lib.pipeline.estimate import disk_free, disk_needed, size_text
from crane_lib.pipeline.failures import START_VARIABLE, forget
from crane_lib.pipeline.kernels import Kernels
from crane_lib.pipeline.log import SectionLog
from crane_lib.pipeline.machine import cores_are_limited
from crane_lib.pipeline.manifest import is_current, write_manifest
from crane_lib.pipeline.memory import measuring_children
from crane_lib.pipeline.notebook import NotebookError, check_parameters, execute
from crane_lib.pipeline.order import waits_for
from crane_lib.pipeline.run import Run
from crane_lib.pipeline.sections import Section, all_sections
from crane_lib.pipeline.store import SECTION_VARIABLE, remove_partial
from crane_lib.pipeline.threads import RUNTIME, THREADS_VARIABLE, all_threads
from crane_lib.progress import FILE_VARIABLE, read_progress

REPORTS = ("report.md", "report.html")


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
    """Write reports and manifest from what lies in the folder; left alone where nothing changed."""
    from crane_lib.output.html_report import write_html
    from crane_lib.output.report import write_report

    if not again and is_current(run.folder) and all((run.folder / name).is_file() for name in REPORTS):
        return
    records = [record for section in all_sections() if (record := run.record(section)) is not None]
    write_manifest(run.folder, run.profile, records)
    write_report(run.folder)
    write_html(run.folder)
    write_manifest(run.folder, run.profile, records)  # once more, now with the reports' hashes
