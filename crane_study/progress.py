"""Progress of long work: a bar on a terminal, lines elsewhere, small files for the runner that started a notebook."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FILE_VARIABLE = "CRANE_PROGRESS_FILE"
TELL_SECONDS = 30.0  # between lines, where there is no terminal
SOON = 3.0  # seconds after which work that is often short shows its progress
_INTERVAL = 0.5  # seconds between writes of the file

StageState = Literal["making", "made", "reused"]


def seconds_text(seconds: float) -> str:
    """Format seconds for people: ``48 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def can_redraw(stream: TextIO) -> bool:
    """Return whether a stream is a terminal whose lines may be drawn again; continuous integration keeps them all."""
    return (
        stream.isatty()
        and os.environ.get("TERM", "") not in ("dumb", "unknown")
        and os.environ.get("CI", "").lower() in ("", "0", "false")
    )


class ProgressTask:
    """Work done step by step, shown after `delay` seconds: call `advance` after each step, `skip` for earlier ones.

    Without a total, only the time that has passed is shown.
    """

    def __init__(self, description: str, total: int | None, *, delay: float = 0.0) -> None:
        self.description, self.total, self.done = description, total, 0
        self.started = time.monotonic()
        self.skipped = 0
        self._note = ""
        self._written = 0.0
        path = os.environ.get(FILE_VARIABLE)
        self._path = Path(path) if path else None
        self._bar: Progress | None = None
        self._closed, self._told = Event(), False
        self._thread: Thread | None = None
        if self._path is not None:
            self._write()
        elif not delay and can_redraw(sys.stderr):
            self._show()
        else:
            self._thread = Thread(target=self._show_in_time, args=(delay,), daemon=True)
            self._thread.start()

    def _show_in_time(self, delay: float) -> None:
        """Start the bar after the delay; where there is no terminal, print a line from time to time."""
        if can_redraw(sys.stderr):
            if not self._closed.wait(delay):
                self._show()
            return
        while not self._closed.wait(TELL_SECONDS):
            self._told = True
            self._tell(_line(self._state()) + ("" if self.total is not None else f", {self._elapsed} so far"))

    def _show(self) -> None:
        """Start the bar."""
        steps = [TextColumn("{task.completed}/{task.total} {task.fields[note]}")] if self.total is not None else []
        left = [TextColumn("left"), TimeRemainingColumn()] if self.total is not None else []
        columns = (TextColumn("{task.description}"), BarColumn(), *steps, TimeElapsedColumn(), *left)
        bar = Progress(*columns, console=Console(stderr=True))
        bar.add_task(self.description, total=self.total, completed=self.done, note=self._note)
        bar.start()
        self._bar = bar

    def _tell(self, text: str) -> None:
        with suppress(OSError, ValueError):  # whoever read the lines is gone
            print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` as done; `note` is shown next to the bar ("loss 0.91")."""
        self.done += steps
        self._note = note
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=note)
        if self._path is not None and (time.monotonic() - self._written > _INTERVAL or self.done == self.total):
            self._write()

    def skip(self, steps: int) -> None:
        """Count `steps` that took no time now, so that the time left is not underestimated."""
        self.done += steps
        self.skipped += steps
        if self._bar is not None:
            self._bar.tasks[0].completed += steps  # Progress.update would count it as speed

    @property
    def _elapsed(self) -> str:
        return seconds_text(time.monotonic() - self.started)

    def _state(self) -> dict[str, object]:
        """Describe the work in JSON."""
        elapsed, worked = time.monotonic() - self.started, self.done - self.skipped
        left = elapsed / worked * (self.total - self.done) if worked and self.total is not None else None
        state = {"description": self.description, "done": self.done, "skipped": self.skipped, "total": self.total}
        return {**state, "left": left, "note": self._note}

    def _write(self) -> None:
        self._written = time.monotonic()
        assert self._path is not None
        temporary = self._path.with_suffix(".partial")
        temporary.write_text(json.dumps(self._state()), encoding="utf-8")
        os.replace(temporary, self._path)

    def close(self) -> None:
        """Remove the bar and the file."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._bar.stop()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._told:
            self._tell(f"{self.description}: ended after {self._elapsed}")


@contextmanager
def progress(description: str, total: int | None = None, *, delay: float = 0.0) -> Iterator[ProgressTask]:
    """Show the progress of a block of work and the time left, after `delay` seconds."""
    task = ProgressTask(description, total, delay=delay)
    try:
        yield task
    finally:
        task.close()


def advancing(task: ProgressTask) -> Callable[[int, int], None]:
    """Return a callback `(done, total)` that advances `task`; its first call says what was done before."""
    before: int | None = None

    def advance(done: int, _total: int) -> None:
        nonlocal before
        if before is None:
            task.skip(done)
        else:
            task.advance(done - before)
        before = done

    return advance


# ---- What a section reports to the runner


@dataclass(frozen=True)
class Report:
    """A section's report: its stages so far, a line on the work at hand, and the share of it that is done.

    `skipped` is the share that an earlier start did; both are None where the work says nothing.
    """

    line: str = ""
    stages: dict[str, StageState] = field(default_factory=dict)
    share: float | None = None
    skipped: float | None = None

    @property
    def making(self) -> str:
        """Stage that is being made, "" for none."""
        return next((name for name, state in self.stages.items() if state == "making"), "")


def note_stage(name: str, state: StageState) -> None:
    """Tell the runner, if there is one, that a stage is being made, has been made, or is reused."""
    if path := os.environ.get(FILE_VARIABLE):
        with suppress(OSError), _stages_file(Path(path)).open("a", encoding="utf-8") as stream:
            stream.write(f"{state} {name}\n")


def _stages_file(path: Path) -> Path:
    return path.with_suffix(".stages")


def read_report(path: Path) -> Report:
    """Return what another process reports in `path`; empty if it reports nothing."""
    stages: dict[str, StageState] = {}
    with suppress(OSError, ValueError):
        pairs = [line.split() for line in _stages_file(path).read_text(encoding="utf-8").splitlines()]
        stages = {pair[1]: pair[0] for pair in pairs if len(pair) == 2}  # type: ignore[misc]
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Report(stages=stages)
    total = state["total"]
    shares = (state["done"] / total, state["skipped"] / total) if total else (None, None)
    return Report(_line(state), stages, *shares)


def forget_report(path: Path) -> None:
    """Remove what a section reported."""
    for file in (path, _stages_file(path)):
        file.unlink(missing_ok=True)


def _line(state: dict[str, object]) -> str:
    """One line on work: ``Relevance 3/4 loss 0.91, 12 s left``."""
    done = f" {state['done']}/{state['total']}" if state["total"] is not None else ""
    note = f" {state['note']}" if state["note"] else ""
    left = state["left"]
    return f"{state['description']}{done}{note}{f', {seconds_text(left)} left' if isinstance(left, float) else ''}"
