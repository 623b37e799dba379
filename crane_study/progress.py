"""Progress of long work: a bar on a terminal, a small file for the runner that started a notebook."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FILE_VARIABLE = "CRANE_PROGRESS_FILE"
_INTERVAL = 0.5  # seconds between writes of the file


class ProgressTask:
    """Work done step by step, shown after `delay` seconds: call `advance` after each step, `skip` for earlier ones."""

    def __init__(self, description: str, total: int, *, delay: float = 0.0) -> None:
        self.description, self.total, self.done = description, total, 0
        self.started = time.monotonic()
        self.skipped = 0
        self._written = 0.0
        path = os.environ.get(FILE_VARIABLE)
        self._path = Path(path) if path else None
        self._bar: Progress | None = None
        self._delay = delay
        if not delay:
            self._show()

    def _show(self) -> None:
        """Start the bar, if there is a terminal."""
        if self._path is None and self._bar is None and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} {task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._id = self._bar.add_task(self.description, total=self.total, completed=self.done, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` as done; `note` is shown next to the bar ("loss 0.91")."""
        self.done += steps
        if self._delay:
            if time.monotonic() - self.started < self._delay:
                return
            self._show()
        if self._bar is not None:
            self._bar.update(self._id, completed=self.done, note=note)
        if self._path is not None and (time.monotonic() - self._written > _INTERVAL or self.done >= self.total):
            self._written = time.monotonic()
            self._write(note)

    def skip(self, steps: int) -> None:
        """Count `steps` that took no time now, so that the time left is not underestimated."""
        self.done += steps
        self.skipped += steps
        if self._bar is not None:
            self._bar.tasks[0].completed += steps  # Progress.update would count it as speed

    def _write(self, note: str) -> None:
        elapsed = time.monotonic() - self.started
        worked = self.done - self.skipped
        left = elapsed / worked * (self.total - self.done) if worked else None
        state = {"description": self.description, "done": self.done, "total": self.total, "left": left, "note": note}
        assert self._path is not None
        temporary = self._path.with_suffix(".partial")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self._path)

    def close(self) -> None:
        """Remove the bar and the file."""
        if self._bar is not None:
            self._bar.stop()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@contextmanager
def progress(description: str, total: int, *, delay: float = 0.0) -> Iterator[ProgressTask]:
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


def read_progress(path: Path) -> str:
    """Return one line on the work that another process reports in `path`; empty if it reports none."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    left = f", {state['left']:.0f} s left" if state.get("left") is not None else ""
    note = f" {state['note']}" if state.get("note") else ""
    return f"{state['description']} {state['done']}/{state['total']}{note}{left}"
