"""Which section waits for which: for those that make, before it, what it reads.

Sections share nothing but stages, which a `Study` makes for whoever asks first. So a section's code tells what it
reads: the members of `Study` that it uses, directly or through the library's functions that take a study. A section
waits for the first one that uses the same. If that were ever wrong, nothing would go wrong but the time: a stage that
two sections ask for at once is made by one, under a lock.
"""

from __future__ import annotations

import ast
import inspect
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, read_json, write_json
from crane_run.sections import Section, plain_code
from crane_study.fingerprints import imported_modules, source_file
from crane_study.profile import TOLD, Profile

_STORE = "store"  # the attribute of a study that makes stages
_WORTH = 0.5  # seconds that must be gained for a second of a free place: times are estimates


def _attributes(tree: ast.AST, name: str) -> set[str]:
    """What is taken from the object of a name: ``x`` and ``y`` for ``study.x + study.y``."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }


def _functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def reachable(names: Iterable[str], uses: Mapping[str, set[str]]) -> set[str]:
    """The names, all that they use, all that those use, and so on; names that use nothing known are kept."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += uses.get(name, ())
    return found


@cache
def _members() -> dict[str, set[str]]:
    """Members of `Study`, each with the attributes of itself that it uses."""
    from crane_study.study import Study  # here, for it loads pandas

    own = [kind for kind in Study.__mro__ if kind is not object]
    trees = [ast.parse(inspect.getsource(kind)) for kind in reversed(own)]
    return {function.name: _attributes(function, "self") for tree in trees for function in _functions(tree)}


@cache
def _takes_study(file: Path) -> dict[str, tuple[set[str], set[str]]]:
    """A file's functions that take a study: what they use of it, and the names that they mention."""
    return {
        function.name: (_attributes(function, "study"), _mentioned(function))
        for function in _functions(ast.parse(file.read_text(encoding="utf-8")))
        if any(argument.arg == "study" for argument in function.args.args)
    }


def _mentioned(tree: ast.AST) -> set[str]:
    """Names and attributes that occur in a piece of code."""
    nodes = list(ast.walk(tree))
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


def stages_read(section: Section) -> set[str]:
    """Members of `Study` that make or read stages and that a section uses, directly or not."""
    code = "\n".join(plain_code(source) for source in section.sources("code"))
    tree = ast.parse(code)
    used = _attributes(tree, "study")
    for module in imported_modules(code):
        file = source_file(module)
        functions = _takes_study(file) if file is not None else {}
        for name in reachable(_mentioned(tree) & set(functions), {key: value[1] for key, value in functions.items()}):
            used |= functions[name][0] if name in functions else set()
    if not used:
        return set()
    members = _members()
    reached = reachable(used, members)
    return {
        name
        for name in reached
        if name in members and not name.startswith("_") and _STORE in reachable([name], members)
    }


def waits_for(sections: Sequence[Section]) -> dict[str, set[str]]:
    """For every section the numbers of those before it that make what it reads, all of them, not only the last."""
    first: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for section in sections:
        read = stages_read(section)
        found[section.number] = {first[name] for name in read if name in first}
        for name in read:
            first.setdefault(name, section.number)
    return {number: reachable(before, found) for number, before in found.items()}


def by_urgency(seconds: Mapping[str, float], after: Mapping[str, set[str]]) -> list[str]:
    """Names in the order in which they should start: first what the longest chain of work begins with.

    Parameters
    ----------
    seconds : that each takes; ties keep its order
    after : for each name all that come before it
    """

    def chain(name: str) -> float:
        return seconds[name] + max((chain(later) for later in seconds if name in after.get(later, ())), default=0.0)

    return sorted(seconds, key=chain, reverse=True)


@dataclass(frozen=True)
class Plan:
    """What starts when, of work of which some waits for other work.

    Parameters
    ----------
    order : names in the order in which they should start
    after : for each name all that come before it
    jobs : how many are at work at once
    """

    order: Sequence[str]
    after: Mapping[str, set[str]]
    jobs: int

    def next(self, waiting: Mapping[str, float], running: Mapping[str, float]) -> str | None:
        """What should start now, None if nothing may or should; both arguments give the seconds each needs yet.

        Of what may start it is that with which all ends soonest, if afterwards each start is of the first in order. A
        place is left free until something ends where that gains enough: when the last step before two long chains is
        at work, a third, starting now, would delay one of them.
        """
        names = self._ready(waiting, running)
        if not names:
            return None
        ends = {name: self._seconds(*_started(name, waiting, running), self._first) for name in names}
        best = min(names, key=lambda name: round(ends[name]))  # to the second: else rounding errors would decide ties
        if running:
            idle = min(running.values())
            held = idle + self._seconds(waiting, _later(running, idle), self._first)
            if held + _WORTH * idle < ends[best]:
                return None
        return best

    def seconds(self, waiting: Mapping[str, float], running: Mapping[str, float]) -> float:
        """Seconds until all is done."""
        return self._seconds(waiting, running, self.next)

    def _ready(self, waiting: Mapping[str, float], running: Mapping[str, float]) -> list[str]:
        """What may start now, in order."""
        if len(running) >= self.jobs:
            return []
        open_ = {*waiting, *running}
        return [name for name in self.order if name in waiting and open_.isdisjoint(self.after.get(name, ()))]

    def _first(self, waiting: Mapping[str, float], running: Mapping[str, float]) -> str | None:
        return next(iter(self._ready(waiting, running)), None)

    def _seconds(
        self,
        waiting: Mapping[str, float],
        running: Mapping[str, float],
        choose: Callable[[Mapping[str, float], Mapping[str, float]], str | None],
    ) -> float:
        clock = 0.0
        while True:
            while (name := choose(waiting, running)) is not None:
                waiting, running = _started(name, waiting, running)
            if not running:
                return clock
            soonest = min(running.values())
            clock += soonest
            running = _later(running, soonest)


def _started(
    name: str, waiting: Mapping[str, float], running: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """The same when `name` has started."""
    return {key: left for key, left in waiting.items() if key != name}, {**running, name: waiting[name]}


def _later(running: Mapping[str, float], seconds: float) -> dict[str, float]:
    """What is still at work so many seconds later."""
    return {name: left - seconds for name, left in running.items() if left > seconds}


State = Literal["waiting", "running", "done", "reused", "failed", "interrupted"]


@dataclass
class Row:
    """One section of a run."""

    number: str
    title: str
    expected: float | None = None  # seconds
    state: State = "waiting"
    seconds: float = 0.0  # that it took
    doing: Callable[[], str] = str  # what it says of itself while it works
    _started: float = 0.0

    def start(self, doing: Callable[[], str]) -> None:
        """The section begins to work."""
        self.state, self.doing, self._started = "running", doing, time.monotonic()

    def stop(self, state: State) -> None:
        """The section has stopped working."""
        self.seconds, self.state = self.elapsed, state

    @property
    def elapsed(self) -> float:
        """Seconds that the section has worked."""
        return time.monotonic() - self._started if self.state == "running" else self.seconds

    @property
    def left(self) -> float:
        """Seconds that the section is expected to need yet; 0 where that is unknown or more have gone by."""
        if self.state not in ("waiting", "running"):
            return 0.0
        return max(0.0, (self.expected or 0.0) - (self.elapsed if self.state == "running" else 0.0))


@dataclass
class Board:
    """All sections of a run, in order.

    Parameters
    ----------
    after : numbers of the sections that each waits for
    jobs : how many may work at once
    """

    rows: list[Row]
    after: Mapping[str, set[str]] = field(default_factory=dict)
    jobs: int = 1

    def row(self, number: str) -> Row:
        """The row of a section."""
        return next(row for row in self.rows if row.number == number)

    def count(self, *states: State) -> int:
        """How many sections are in one of these states."""
        return sum(row.state in states for row in self.rows)

    def next(self) -> Row | None:
        """The section that should start now, None if none; of several the one with which all ends soonest."""
        name = self._plan.next(self._seconds("waiting"), self._seconds("running"))
        return None if name is None else self.row(name)

    @property
    def left(self) -> float | None:
        """Seconds until all is done, None if a section's time is unknown."""
        if any(row.expected is None for row in self.rows if row.state in ("running", "waiting")):
            return None
        return self._plan.seconds(self._seconds("waiting"), self._seconds("running"))

    @property
    def _plan(self) -> Plan:
        """One after the other, sections keep their order; several at once, those come first that most work hangs on."""
        order = [row.number for row in self.rows]
        if self.jobs > 1:
            order = by_urgency({row.number: row.expected or 0.0 for row in self.rows}, self.after)
        return Plan(order, self.after, self.jobs)

    def _seconds(self, state: State) -> dict[str, float]:
        """Seconds that each section in a state needs yet."""
        return {row.number: row.left for row in self.rows if row.state == state}


TIMES = ".times"  # folder of this machine's own record, beside the runs, so that --fresh leaves it
_REPEATS = 60
_GIGABYTE = 1e9


def calibrate() -> float:
    """Seconds of a fixed piece of arithmetic on this machine: the best of several, a fifth of a second in all.

    Half of it is one larger matrix product, half are many small steps, in which a small model spends its time. It is
    done in one thread and timed by what that thread had of a core, for several would wait for one another wherever
    other processes keep the cores busy.
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
    """Seconds that the sections of a profile take on this machine when nothing can be reused.

    They are those of an earlier run here; before the first one, those that the profile expects, scaled by how much
    faster or slower this machine is than the one they were taken on.

    Parameters
    ----------
    folder : of all runs
    threads : that a section computes with; a record is of one number of threads
    """

    def __init__(self, folder: Path, profile: Profile, *, threads: int) -> None:
        # Random seed and name do not change how long it takes.
        told = {*TOLD, "name", "random_seed"}
        settings = {name: value for name, value in profile.resolved().items() if name not in told}
        self._path = folder / TIMES / f"{fingerprint({'profile': settings, 'threads': threads})}.json"
        self._profile = profile
        self._scale: float | None = None

    def expected(self, number: str) -> float | None:
        """Seconds of a section, None where nobody knows."""
        own = self._own().get(number)
        if own is not None:
            return own
        seconds = self._profile.expected_seconds.get(number)
        return seconds * self._scaled() if seconds else None

    def keep(self, number: str, seconds: float) -> None:
        """Remember how long a section took."""
        write_json(self._path, {**self._own(), number: round(seconds, 2)})

    def _own(self) -> dict[str, float]:
        with suppress(CraneError):
            found = read_json(self._path)
            if isinstance(found, dict):
                return {str(name): float(value) for name, value in found.items() if isinstance(value, (int, float))}
        return {}

    def _scaled(self) -> float:
        if self._scale is None:
            reference = self._profile.calibration_seconds
            self._scale = calibrate() / reference if reference else 1.0
        return self._scale


def check_disk(profile: Profile, folder: Path) -> None:
    """Refuse a run whose disk is too small for what is still to be written.

    Raises
    ------
    CraneError : less is free than the profile needs beyond what lies in the run's folder already
    """
    needed, free = disk_needed(profile, folder), disk_free(folder)
    if needed > free:
        raise CraneError(
            f"{folder}: profile {profile.name} needs {size_text(needed)} more disk, {size_text(free)} are free; free "
            "some space or choose another --artifacts"
        )


def disk_needed(profile: Profile, folder: Path) -> float:
    """Gigabytes that a run may still write, 0 where the profile names none."""
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    return max(0.0, profile.needs.disk_gb - written / _GIGABYTE)


def disk_free(folder: Path) -> float:
    """Gigabytes that are free where a folder is or would be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free / _GIGABYTE


def size_text(size: float) -> str:
    """Gigabytes as a person says them: ``160 MB``, ``1.5 GB``, ``14 GB``."""
    if size < 1:
        return f"{1000 * size:.0f} MB"
    return f"{size:.1f} GB" if size < 10 else f"{size:.0f} GB"
