"""The order in which sections start, the time that is left, and the disk that a run needs."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

from crane_lib.errors import CraneError
from crane_study.profile import Profile
from crane_study.progress import Report

State = Literal["waiting", "running", "done", "reused", "failed", "interrupted"]
_OPEN = ("waiting", "running")
REST = ""  # name of a section's work outside stages: starting, tables, figures
# What is computed with all threads, whichever section asks for it (`all_threads` in crane_study/study.py).
ON_ALL_THREADS = ("corpus", "base_model", "chat_model", "relevance_base", "relevance_chat")
_PRIOR = 10.0  # seconds of work that the expected speed counts for
_MEMORY = 45.0  # seconds after which a measured speed counts for a third: a core may become busy or free
_GIGABYTE = 1e9


@dataclass
class Row:
    """One section of a run.

    Work is counted in the seconds that are expected of it. `work` is what each stage that the section makes and the
    rest of it still need; `kept` are stages that lie there from an earlier start and are expected to be reused.
    """

    number: str
    title: str
    work: dict[str, float] | None = None  # None: unknown
    kept: dict[str, float] = field(default_factory=dict)
    state: State = "waiting"
    seconds: float = 0.0  # that it took
    look: Callable[[], Report] = Report  # its own report of progress while it runs
    _started: float = 0.0
    _seen: tuple[str, float, float] = ("", 0.0, 0.0)  # stage, and the shares of it that were done and skipped
    _base: float = 0.0  # work that was left of it then
    _least: float = 0.0  # ... and will be after one more step

    def start(self, look: Callable[[], Report]) -> None:
        """Mark the section as running."""
        self.state, self.look, self._started = "running", look, time.monotonic()

    def stop(self, state: State) -> None:
        """Mark the section as ended."""
        self.seconds, self.state = self.elapsed, state

    @property
    def elapsed(self) -> float:
        """Seconds that the section has run."""
        return time.monotonic() - self._started if self.state == "running" else self.seconds

    @property
    def left(self) -> float:
        """Work that is still to be done; 0 where unknown or overdue."""
        return sum((self.work or {}).values()) if self.state in _OPEN else 0.0

    def do(self, report: Report, expected: float) -> float:
        """Take off what has been done since the last look, and return how much that is.

        Work that reports no share is taken to be as fast as `expected`, until none of it is left.
        """
        work, done = self.work, 0.0
        if work is None:
            return expected
        making = report.making
        for name, state in report.stages.items():
            left = work.pop(name, 0.0) if state != "making" else 0.0
            done += left if state == "made" else 0.0
        if making not in work:
            return done + expected  # a stage of unknown length
        if report.share is not None and making and (making, report.share) != self._seen[:2]:
            return done + self._step(making, report.share, report.skipped or 0.0)
        before, least = work[making], self._least if making == self._seen[0] else 0.0
        work[making] = max(min(least, before), before - expected)
        return done + before - work[making]

    def _step(self, stage: str, share: float, skipped: float) -> float:
        """Take off what a stage says is done, and return how much this start has done of it."""
        assert self.work is not None
        before = self.work[stage]
        name, old_share, old_skipped = self._seen
        if name != stage or share < old_share:
            old_share, old_skipped, self._base = 0.0, 0.0, before
        scale = self._base / max(1 - old_share, 1e-9)  # work of the whole
        past = max(0.0, skipped - old_skipped)
        step = share - old_share - past
        self._base = self.work[stage] = scale * (1 - share)
        self._least = max(0.0, self._base - scale * step) if step > 0 else 0.0
        self._seen = stage, share, skipped
        return before - self._base - scale * past


@dataclass
class Board:
    """All sections of a run, in the order of their numbers."""

    rows: list[Row]
    after: Mapping[str, frozenset[str]] = field(default_factory=dict)  # numbers of all sections that each waits for
    jobs: int = 1  # sections that may run at once
    pace: tuple[float, ...] = ()  # of a section when 1, 2, ... run at once, against that of `jobs` at once
    later: float = 0.0  # work of runs that follow this one
    _looked: float | None = None
    _done: float = 0.0  # work of the last minute or so ...
    _took: float = 0.0  # ... and the seconds that it took; both weigh less as time passes

    def row(self, number: str) -> Row:
        """Row of a section."""
        return next(row for row in self.rows if row.number == number)

    def count(self, *states: State) -> int:
        """Number of sections in one of these states."""
        return sum(row.state in states for row in self.rows)

    def next(self) -> Row | None:
        """The section that should start now, None if none may: the first in order whose needs have ended."""
        open_ = {row.number for row in self.rows if row.state in _OPEN}
        ready = [
            row for row in self._order(lambda row: row.left) if row.state == "waiting" and not open_ & self._needs(row)
        ]
        return ready[0] if ready and self.count("running") < self.jobs else None

    @property
    def speed(self) -> float:
        """Expected seconds of work that a section does in a second, with as many at once as there may be."""
        return self._done / self._took if self._took else 1.0

    def look(self) -> None:
        """Look at what the running sections have done since the last look, and how fast."""
        now = time.monotonic()
        passed, self._looked = now - (self._looked if self._looked is not None else now), now
        work = sum(row.left for row in self.rows)
        if not self._took:
            self._done = self._took = max(_PRIOR, work / 100)
        keep = math.exp(-passed / max(_MEMORY, work / self.speed / self.jobs / 30))
        running = {row.number: row.look() for row in self.rows if row.state == "running"}
        shared = any(report.making in ON_ALL_THREADS for report in running.values())
        passed *= 1.0 if shared else self._pace_of(len(running))
        done, took = 0.0, passed * len(running)
        for number, report in running.items():
            row = self.row(number)
            self._take_over(row, report)
            done += row.do(report, passed * self.speed)
        self._done, self._took = self._done * keep + done, self._took * keep + took

    def _take_over(self, row: Row, report: Report) -> None:
        """Count a stage for the section that makes or reuses it, whichever was expected to."""
        for name, state in report.stages.items():
            if state != "reused" and any(name in other.kept for other in self.rows):
                for other in self.rows:  # so what lies there is out of date
                    if other.work is not None and other.state in _OPEN:
                        other.work |= other.kept
                    other.kept = {}
            for other in self.rows:
                if other is not row and other.state in _OPEN:
                    known = (other.work or {}).pop(name, None)
                    if known is not None and row.work is not None and state == "making":
                        row.work[name] = known
                if state == "reused":
                    other.kept.pop(name, None)

    def seconds(self, row: Row) -> float:
        """Seconds that a section is expected to need yet; 0 where unknown or overdue."""
        return row.left / self.speed / self._pace_of(max(1, self.count("running")))

    @property
    def left(self) -> float | None:
        """Seconds until all is done, None if the time of a section is unknown."""
        if any(row.work is None for row in self.rows if row.state in _OPEN):
            return None
        return (self._span(lambda row: row.left) + self.later) / self.speed

    @property
    def most(self) -> float:
        """Seconds until all is done if nothing of an earlier start can be reused, before the start."""
        return self._span(lambda row: row.left + sum(row.kept.values())) + self.later

    def _span(self, work: Callable[[Row], float]) -> float:
        """Work from now to the end on the way that takes longest, with several sections at once."""
        left = {row.number: work(row) for row in self.rows if row.state in _OPEN}
        running = [row for row in self.rows if row.state == "running"]
        waiting, span = [row for row in self._order(work) if row.state == "waiting"], 0.0
        while left:
            ready = [row for row in waiting if not left.keys() & self._needs(row)]
            started = ready[: max(0, self.jobs - len(running))]
            running += started
            waiting = [row for row in waiting if row not in started]
            step = min(left[row.number] for row in running)
            span += step / self._pace_of(len(running))
            for row in running:
                left[row.number] -= step
            running = [row for row in running if left[row.number] > 0 or bool(left.pop(row.number))]
        return span

    def _pace_of(self, count: int) -> float:
        return self.pace[count - 1] if 0 < count <= len(self.pace) else 1.0

    def _needs(self, row: Row) -> set[str]:
        """Sections of this run that a section waits for."""
        return {other.number for other in self.rows} & self.after.get(row.number, frozenset())

    def _order(self, work: Callable[[Row], float]) -> list[Row]:
        """Order of start: by number for one at a time, else by the longest chain of work that begins with each."""
        if self.jobs == 1:
            return self.rows
        chains = {row.number: work(row) for row in self.rows}
        needs = {row.number: self._needs(row) for row in self.rows}
        for number in reversed(list(TopologicalSorter(needs).static_order())):
            later = [chains[other] for other in chains if number in needs[other]]
            chains[number] += max(later, default=0.0)
        return sorted(self.rows, key=lambda row: chains[row.number], reverse=True)


def check_disk(profile: Profile, folder: Path) -> None:
    """Refuse a run whose disk is too small for what is still to be written."""
    needed, free = disk_needed(profile, folder), disk_free(folder)
    if needed > free:
        sizes = f"needs {size_text(needed)} more disk, {size_text(free)} are free"
        advice = "free some space or choose another --artifacts"
        raise CraneError(f"{folder}: profile {profile.name} {sizes}; {advice}")


def disk_needed(profile: Profile, folder: Path) -> float:
    """Gigabytes that a run may still write, 0 where the profile names none."""
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    return max(0.0, profile.needs.disk_gb - written / _GIGABYTE)


def disk_free(folder: Path) -> float:
    """Gigabytes that are free where a folder is or would be."""
    return shutil.disk_usage(existing(folder)).free / _GIGABYTE


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def size_text(size: float) -> str:
    """Format gigabytes for people: ``160 MB``, ``1.5 GB``, ``14 GB``."""
    return f"{1000 * size:.0f} MB" if size < 1 else f"{size:.{1 if size < 10 else 0}f} GB"
