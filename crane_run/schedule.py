"""The order in which sections start, how long they take on this machine, and the disk that they need."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from heapq import heapreplace
from pathlib import Path
from typing import Literal

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, read_json, write_json
from crane_study.profile import TOLD, Profile

State = Literal["waiting", "running", "done", "reused", "failed", "interrupted"]
_OPEN = ("waiting", "running")


@dataclass
class Row:
    """One section of a run."""

    number: str
    title: str
    expected: float | None = None  # seconds
    state: State = "waiting"
    seconds: float = 0.0  # that it took
    doing: Callable[[], str] = str  # its own report of progress while it runs
    _started: float = 0.0

    def start(self, doing: Callable[[], str]) -> None:
        """Mark the section as running."""
        self.state, self.doing, self._started = "running", doing, time.monotonic()

    def stop(self, state: State) -> None:
        """Mark the section as ended."""
        self.seconds, self.state = self.elapsed, state

    @property
    def elapsed(self) -> float:
        """Seconds that the section has run."""
        return time.monotonic() - self._started if self.state == "running" else self.seconds

    @property
    def left(self) -> float:
        """Seconds that the section is expected to need yet; 0 where unknown or overdue."""
        done = self.elapsed if self.state == "running" else 0.0
        return max(0.0, (self.expected or 0.0) - done) if self.state in _OPEN else 0.0


@dataclass
class Board:
    """All sections of a run, in the order of their numbers."""

    rows: list[Row]
    after: Mapping[str, frozenset[str]] = field(default_factory=dict)  # numbers of all sections that each waits for
    jobs: int = 1  # sections that may run at once

    def row(self, number: str) -> Row:
        """Row of a section."""
        return next(row for row in self.rows if row.number == number)

    def count(self, *states: State) -> int:
        """Number of sections in one of these states."""
        return sum(row.state in states for row in self.rows)

    def next(self) -> Row | None:
        """The section that should start now, None if none may: the first in order whose needs have ended."""
        open_ = {row.number for row in self.rows if row.state in _OPEN}
        ready = [row for row in self._order() if row.state == "waiting" and not open_ & self._needs(row)]
        return ready[0] if ready and self.count("running") < self.jobs else None

    @property
    def left(self) -> float | None:
        """Seconds until all is done, None if the time of a section is unknown."""
        if any(row.expected is None for row in self.rows if row.state in _OPEN):
            return None
        places, ends = [0.0] * self.jobs, dict.fromkeys((row.number for row in self.rows), 0.0)
        for row in sorted(self._order(), key=lambda row: row.state != "running"):
            if row.state in _OPEN:
                ready = max((ends[number] for number in self._needs(row)), default=0.0)
                ends[row.number] = max(places[0], ready) + row.left
                heapreplace(places, ends[row.number])
        return max(ends.values(), default=0.0)

    def _needs(self, row: Row) -> set[str]:
        """Sections of this run that a section waits for."""
        return {other.number for other in self.rows} & self.after.get(row.number, frozenset())

    def _order(self) -> list[Row]:
        """Order of start: by number for one at a time, else by the longest chain of work that begins with each."""
        if self.jobs == 1:
            return self.rows
        chains = {row.number: row.left for row in self.rows}  # seconds
        needs = {row.number: self._needs(row) for row in self.rows}
        for number in reversed(list(TopologicalSorter(needs).static_order())):
            later = [chains[other] for other in chains if number in needs[other]]
            chains[number] += max(later, default=0.0)
        return sorted(self.rows, key=lambda row: chains[row.number], reverse=True)


TIMES = ".times"  # folder of this machine's own record, next to the runs, so that --fresh leaves it
_REPEATS = 60
_GIGABYTE = 1e9


def calibrate() -> float:
    """Measure the speed of this machine: seconds of a fixed piece of arithmetic, the best of several attempts.

    Half of it is one larger matrix product, half are many small steps, in which a small model spends its time. Only the
    processor time of one thread counts: several threads would wait for one another on a busy machine.
    """
    import numpy as np  # here, so that the command line starts without it
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(0)
    large = random.standard_normal((512, 512), dtype=np.float32)
    small = random.standard_normal((64, 64), dtype=np.float32)

    def work() -> float:
        started = time.thread_time()
        large @ large
        for _ in range(100):
            np.tanh(small @ small).sum(axis=0)
        return time.thread_time() - started

    with threadpool_limits(1):
        return min(work() for _ in range(_REPEATS))


class Times:
    """Seconds that the sections of a profile take on this machine, in `threads` threads, if nothing can be reused.

    They are those of an earlier run in `folder`, where all runs are; before the first one, those that the profile
    expects, scaled by the speed of this machine relative to the one that they were taken on.
    """

    def __init__(self, folder: Path, profile: Profile, *, threads: int) -> None:
        told = {*TOLD, "name", "random_seed"}  # they do not change the time
        settings = {name: value for name, value in profile.resolved().items() if name not in told}
        self._path = folder / TIMES / f"{fingerprint({'profile': settings, 'threads': threads})}.json"
        self._profile = profile

    def expected(self, number: str) -> float | None:
        """Seconds of a section, None where unknown."""
        own, seconds = self._own(), self._profile.expected_seconds.get(number)
        return own[number] if number in own else (seconds * self._scale if seconds else None)

    def keep(self, number: str, seconds: float) -> None:
        """Record how long a section took."""
        write_json(self._path, {**self._own(), number: round(seconds, 2)})

    @cached_property
    def _scale(self) -> float:
        reference = self._profile.calibration_seconds
        return calibrate() / reference if reference else 1.0

    def _own(self) -> dict[str, float]:
        with suppress(CraneError):
            found = read_json(self._path)
            pairs = found.items() if isinstance(found, dict) else ()
            return {str(name): float(value) for name, value in pairs if isinstance(value, (int, float))}
        return {}


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
