"""The time that each part of a profile's sections takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, read_json, write_json
from crane_run.schedule import ON_ALL_THREADS
from crane_study.checkpoints import is_trained_here
from crane_study.machine import all_threads
from crane_study.profile import TOLD, EmbeddedSource, Profile, load_profile

TIMES = ".times"  # folder of this machine's own record, next to the runs, so that --fresh leaves it
REPORT = "report"  # the part of a run that comes after its sections
_SECONDS = 0.5  # of calibration
_TOKENS = 1024  # of a batch in the calibration
_SIZES = (256, 1024)  # hidden size and MLP width where the profile does not say
_SHARED = "gemma3-270m"  # profile whose parts share the hours of one that expects no seconds
_THREADS = 2  # of the machines that the profiles' seconds were taken on
MODELS = ("base_model", "chat_model")
_COPY = 0.5  # seconds to take a model from a released checkpoint
_GAIN = 0.6  # exponent: a small model gains about half as much from a second thread as it could


def calibrate(profile: Profile, *, places: int) -> float:
    """Measure the speed of this machine as it is now: seconds of a small piece of a profile's arithmetic.

    It is the MLP of one layer on a batch, done over and over in as many threads as there will be sections at once: on a
    machine that has something else to do they get less than a core each.
    """
    import numpy as np  # here, so that the command line starts without it
    from threadpoolctl import threadpool_limits

    source, (hidden, width) = profile.source, _SIZES
    if isinstance(source, EmbeddedSource):
        hidden, width = source.architecture.hidden, source.architecture.intermediate
    random, dtype = np.random.default_rng(0), "float64" if profile.dtype == "float64" else "float32"
    up = random.standard_normal((hidden, width)).astype(dtype)
    batch = random.standard_normal((_TOKENS, hidden)).astype(dtype)

    def work(_place: int) -> float:
        # Results go into memory that is there: getting new one takes longer than the arithmetic on some machines.
        inner, outer = np.empty((_TOKENS, width), dtype), np.empty_like(batch)
        pieces, started = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started) < _SECONDS or not pieces:
            np.matmul(batch, up, out=inner)
            np.tanh(inner, out=inner)
            np.matmul(inner, up.T, out=outer)
            pieces += 1
        return seconds / pieces

    with threadpool_limits(1), ThreadPoolExecutor(places) as pool:
        return sum(pool.map(work, range(places))) / places


class Times:
    """Seconds that the parts of a profile take on this machine, with `jobs` sections at once in `threads` threads each.

    A part is a stage, by its name, or all else that a section does, by the section's number. The seconds are those of
    an earlier run in `folder`, where all runs are; before the first one, those that the profile expects, scaled by the
    speed of this machine relative to the one that they were taken on.
    """

    def __init__(self, folder: Path, profile: Profile, *, threads: int, jobs: int) -> None:
        told = {*TOLD, "name", "random_seed"}  # they do not change the time
        settings = {name: value for name, value in profile.resolved().items() if name not in told}
        self._trains = is_trained_here(profile)
        about = {"profile": settings, "trains": self._trains, "threads": threads, "jobs": jobs}
        self._path = folder / TIMES / f"{fingerprint(about)}.json"
        self._profile, self._jobs = profile, jobs
        self._pieces: dict[int, float] = {}

    def expected(self, part: str) -> float | None:
        """Seconds of a part, None where unknown."""
        own, seconds = self.own, self._told.get(part)
        if part in own or seconds is None:
            return own.get(part)
        if part in MODELS and not self._trains:
            return _COPY
        threads = (_THREADS / min(4, all_threads())) ** _GAIN if part in ON_ALL_THREADS else 1.0
        return seconds * self._scale * threads

    @cached_property
    def _told(self) -> dict[str, float]:
        """Seconds of parts that the profile expects; where it has hours only, shared out as another real model's."""
        seconds, hours = self._profile.expected_seconds, self._profile.needs.hours
        if seconds or not hours:
            return seconds
        shares = load_profile(_SHARED).expected_seconds
        return {part: 3600 * hours * share / sum(shares.values()) for part, share in shares.items()}

    def keep(self, seconds: Mapping[str, float]) -> None:
        """Record how long parts took."""
        write_json(self._path, self.own | {part: round(value, 2) for part, value in seconds.items()})

    @cached_property
    def pace(self) -> tuple[float, ...]:
        """Speed of a section when 1, 2, ... run at once, against as many as there may be: measured now."""
        if self._jobs == 1:
            return ()
        found = (self._piece(self._jobs) / self._piece(count) for count in range(1, self._jobs + 1))
        return tuple(min(max(1.0, pace), float(self._jobs)) for pace in found)

    def _piece(self, count: int) -> float:
        if count not in self._pieces:
            self._pieces[count] = calibrate(self._profile, places=count)
        return self._pieces[count]

    @cached_property
    def _scale(self) -> float:
        reference = self._profile.calibration_seconds
        return self._piece(self._jobs) / reference if reference else 1.0

    @property
    def own(self) -> dict[str, float]:
        """This machine's own record."""
        with suppress(CraneError):
            found = read_json(self._path)
            pairs = found.items() if isinstance(found, dict) else ()
            return {str(name): float(value) for name, value in pairs if isinstance(value, int | float)}
        return {}
