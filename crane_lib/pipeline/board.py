"""The state of a run: which section waits, works or is done, which may start, and how long all will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from crane_lib.pipeline.order import Plan, by_urgency

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
