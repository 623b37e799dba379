"""Measuring: a row of the results, times in alternation, memory of a fresh process, facts of the machine."""

from __future__ import annotations

import importlib.metadata
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import typer

from crane_lib.errors import CraneError
from crane_run.manifest import describe_commit
from crane_study.machine import processor_name

MEGABYTE = 1e6  # bytes
SLOW_IMPORTS = ["torch", "transformers.models.llama.modeling_llama", "scipy.stats"]
ROOT = Path(__file__).resolve().parents[1]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measurement:
    """One row of the results.

    Parameters
    ----------
    value, unit : what was measured; the median where it was measured more than once
    low, high : the extremes over repetitions
    goal : such as ">= 3", empty where there is none
    exact : the goal is about numbers, not about time or memory, and holds for small sizes too
    """

    benchmark: str
    what: str
    value: float
    unit: str
    low: float = math.nan
    high: float = math.nan
    goal: str = ""
    exact: bool = False

    @property
    def met(self) -> bool | None:
        """True if the goal is met; None if there is none."""
        if not self.goal:
            return None
        relation, bound = self.goal.split()
        return {">=": self.value >= float(bound), "<=": self.value <= float(bound), "<": self.value < float(bound)}[
            relation
        ]


def skipped(benchmark: str, reason: str) -> list[Measurement]:
    """The one row of a benchmark that this machine cannot run."""
    return [Measurement(benchmark, f"skipped: {reason}", math.nan, "")]


def spread(benchmark: str, what: str, values: Sequence[float], unit: str, *, goal: str = "") -> Measurement:
    """Median and extremes of repetitions."""
    return Measurement(benchmark, what, statistics.median(values), unit, min(values), max(values), goal)


Round = dict[str, float]  # seconds of each contestant


def alternate(rounds: Sequence[dict[str, Callable[[], Any]]]) -> list[Round]:
    """Seconds of the contestants, round after round; in a round each runs once, in the order given."""
    return [{name: timed(run) for name, run in contestants.items()} for contestants in rounds]


def times(benchmark: str, rounds: Sequence[Round]) -> list[Measurement]:
    """One row a contestant: its seconds over the rounds it ran in."""
    names = list(dict.fromkeys(name for seconds in rounds for name in seconds))
    return [spread(benchmark, name, [seconds[name] for seconds in rounds if name in seconds], "s") for name in names]


def ratio(benchmark: str, rounds: Sequence[Round], above: str, below: str, *, goal: str = "") -> Measurement:
    """Time of one contestant over that of another, round by round: what slows the machine for a while slows both."""
    quotients = [seconds[above] / seconds[below] for seconds in rounds if above in seconds and below in seconds]
    return spread(benchmark, f"{above} / {below}", quotients, "times", goal=goal)


def timed(run: Callable[[], Any]) -> float:
    """Seconds that a call takes, until a GPU it uses is done."""
    _synchronize()
    start = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass
class PeakMemory:
    """Resident memory in bytes: `own` at the beginning, and the most that was `added` to it."""

    own: int = 0
    added: int = 0


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the most resident memory inside the block over what the process held before it.

    The mark that the kernel keeps is set back first; where that is forbidden, `added` is an upper bound.

    Raises
    ------
    CraneError : the system has no Linux /proc
    """
    peak = PeakMemory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except FileNotFoundError as error:
        raise CraneError("memory is read from Linux's /proc, which is not here; leave these benchmarks out") from error
    except OSError:
        pass
    peak.own = _resident("VmRSS")
    yield peak
    peak.added = _resident("VmHWM") - peak.own


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise CraneError(f"memory: /proc/self/status does not tell {name}; leave these benchmarks out")


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Result of a call in a process of its own, which holds what importing leaves behind and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SLOW_IMPORTS)  # once for all processes; each begins as a copy
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


@dataclass(frozen=True)
class Machine:
    """Machine and settings that the numbers depend on."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    load_average: tuple[float, float, float]  # over 1, 5, 15 minutes, before the first benchmark
    gpu: str | None
    python: str
    torch: str
    transformers: str
    system: str
    commit: str | None
    uncommitted_changes: bool | None
    seconds: dict[str, float] = field(default_factory=dict)  # by benchmark


def machine_facts() -> Machine:
    """Look at the machine and the checkout."""
    source = describe_commit()
    return Machine(
        processor=processor_name(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        load_average=os.getloadavg(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=importlib.metadata.version("transformers"),
        system=platform.platform(),
        commit=source["commit"],
        uncommitted_changes=source["uncommitted_changes"],
    )


def run_command(app: typer.Typer) -> None:
    """Run a benchmark's command; what a user can put right is one line."""
    try:
        app()
    except CraneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
