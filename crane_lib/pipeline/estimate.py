"""What a run will take, told before it starts: seconds by this machine's speed, and disk."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, read_json, write_json
from crane_lib.profile import TOLD, Profile

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
