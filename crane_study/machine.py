"""The machine of a run: processor, cores and memory (also as limited by a container), GPUs, threads, peak memory."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_MIB = 1 << 20
_CGROUP = Path("/sys/fs/cgroup")
_GPU_FIELDS = "name,driver_version,memory.total"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
THREADS_VARIABLE = "CRANE_THREADS"  # all threads; OMP_NUM_THREADS holds a section's own share

# Settings for threads and memory; none changes a number. Waiting threads sleep instead of spinning: with another
# program on a core, spinning made training ten to twenty times slower. glibc keeps freed memory for the next tensor
# instead of returning it to the system and having it zeroed again: a sixth of the time of training.
RUNTIME = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}


# ---- Description


def describe_machine() -> dict[str, Any]:
    """Describe the machine for a manifest; what cannot be determined is None, never an error."""
    gpus = _gpus()
    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "core_limit": _core_limit(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "memory_limit_bytes": _memory_limit(),
        "thread_settings": {name: os.environ[name] for name in _THREAD_VARIABLES if os.environ.get(name)},
        "gpus": [{"name": gpu[0], "memory_mib": int(gpu[2])} for gpu in gpus],
        "gpu_driver": gpus[0][1] if gpus else None,
        "cuda_runtime": _cuda_runtime(),
    }


def _found(pattern: str, file: Path) -> str | None:
    """Return the first group of a pattern in a text file, or None."""
    try:
        found = re.search(pattern, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def processor_name() -> str:
    """Return the name of the processor as the system reports it."""
    name = _found(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo"))
    return name.strip() if name else platform.processor() or platform.machine()


def granted_cores() -> int:
    """Return the number of cores that this process may keep busy, which a container may limit."""
    limit, cores = _core_limit(), _usable_cores() or 1
    return cores if limit is None else max(1, min(cores, int(limit)))


def cores_are_limited() -> bool:
    """Return whether a container grants less time than the cores that are visible, which libraries overestimate."""
    return granted_cores() < (_usable_cores() or 1)


def granted_memory() -> int:
    """Return the memory in bytes that this process may use, which a container may limit."""
    total, limit = int(psutil.virtual_memory().total), _memory_limit()
    return total if limit is None else min(total, limit)


def _usable_cores() -> int | None:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _core_limit() -> float | None:
    """Return the number of cores that a container grants (``docker run --cpus``); None without a limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return round(int(quota) / int(period), 2)
    except (OSError, ValueError):  # no control group, or "max"
        return None


def _memory_limit() -> int | None:
    """Return the memory in bytes that a container grants; None without a limit."""
    limit = _found(r"^(\d+)$", _CGROUP / "memory.max")
    return None if limit is None else int(limit)


def _gpus() -> list[tuple[str, str, str]]:
    """Return name, driver version and memory (MiB) of every NVIDIA GPU; none if nvidia-smi is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if not done.returncode and len(row) == 3 and row[2].isdigit()]


def _cuda_runtime() -> str | None:
    """Return the CUDA version that torch was built with, read from its file because loading torch takes seconds."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    return _found(r"^cuda\b.*=\s*'([\d.]+)'", Path(found.origin).with_name("version.py"))


# ---- Threads


def threads() -> int | None:
    """Return the number of threads of torch in this process; None if torch is not loaded."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def all_threads() -> int:
    """Return the number of threads that a single computation uses on this machine."""
    for name in (THREADS_VARIABLE, "OMP_NUM_THREADS"):
        given = os.environ.get(name, "")
        if given.isdigit() and int(given):
            return int(given)
    return granted_cores()


@contextmanager
def on_all_threads() -> Iterator[None]:
    """Let torch, if it is loaded, compute with all threads during the block."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(all_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- Peak memory

HIGH_WATER_MARK = "high-water mark of the process, reset before"
SAMPLED = "sampled"
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")  # writing 5 resets VmHWM (man 5 proc)
_INTERVAL = 0.02  # seconds between samples if the mark cannot be reset


@dataclass
class Peak:
    """Highest memory in MiB, to a tenth, and how it was measured; None if it could not be measured."""

    resident_mib: float | None = None
    gpu_mib: float | None = None  # allocated by torch, summed over GPUs; None if no GPU was used
    measure: str = ""


def _mark() -> float | None:
    """Return the high-water mark of this process's resident memory, in MiB."""
    kib = _found(r"^VmHWM:\s+(\d+) kB$", _STATUS)
    return None if kib is None else int(kib) / 1024


def _reset_mark() -> bool:
    """Reset the high-water mark; return False if the system does not allow it."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return _mark() is not None


def _cuda() -> Any | None:
    """Return torch.cuda if this process uses a GPU already; starts neither CUDA nor torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


@contextmanager
def measuring() -> Iterator[Peak]:
    """Measure this process during the block; the `Peak` is filled in at its end. Blocks do not nest."""
    before = _cuda()
    if before is not None:
        for number in range(before.device_count()):
            before.reset_peak_memory_stats(number)
    sampler = None if _reset_mark() else _Sampler()
    peak = Peak(measure=SAMPLED if sampler else HIGH_WATER_MARK)
    try:
        yield peak
    finally:
        highest = sampler.stop() if sampler else _mark()
        peak.resident_mib = None if highest is None else round(highest, 1)
        after = _cuda()
        if after is not None:
            allocated = sum(after.max_memory_allocated(number) for number in range(after.device_count()))
            peak.gpu_mib = round(allocated / _MIB, 1)


class _Sampler:
    """Thread that records the highest resident memory of this process."""

    def __init__(self) -> None:
        self._highest: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        process = psutil.Process()
        while True:
            self._highest = max(self._highest or 0.0, process.memory_info().rss / _MIB)
            if self._stop.wait(_INTERVAL):
                return

    def stop(self) -> float | None:
        self._stop.set()
        self._thread.join()
        return self._highest
