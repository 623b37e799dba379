"""What a run was made on: processor, cores and memory (limits of a container too), threads, GPUs."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HIGH_WATER_MARK = "high-water mark of the process, reset before"
SAMPLED = "sampled"
WHOLE_PROCESS = "high-water mark of the process since its start"
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET = "5"  # what the kernel wants to hear to set VmHWM back (man 5 proc)
_MIB = 1 << 20
_STAGE_INTERVAL = 0.02  # seconds between samples where the mark cannot be reset
_SECTION_INTERVAL = 0.5


@dataclass
class Peak:
    """Highest memory seen, in MiB, and how it was measured; None where it could not be."""

    resident_mib: float | None = None
    gpu_mib: float | None = None  # allocated by torch, summed over GPUs; None where no GPU was used
    measure: str = ""

    def rounded(self) -> float | None:
        """Resident memory to a tenth of a MiB."""
        return None if self.resident_mib is None else round(self.resident_mib, 1)


def _reset_mark() -> bool:
    """Set this process's high-water mark back to what it holds now; False where the system does not let us."""
    try:
        _CLEAR.write_text(_RESET, encoding="ascii")
    except OSError:
        return False
    return _mark() is not None


def _mark() -> float | None:
    """High-water mark of this process's resident memory, in MiB."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), flags=re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None


def _since_start() -> float:
    """Highest resident memory of this process since it started, in MiB."""
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / _MIB


def _cuda() -> Any | None:
    """torch.cuda if this process uses a GPU already; asking never starts CUDA nor loads torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _gpu_peak() -> float | None:
    cuda = _cuda()
    if cuda is None:
        return None
    return round(sum(cuda.max_memory_allocated(number) for number in range(cuda.device_count())) / _MIB, 1)


def _reset_gpu() -> None:
    cuda = _cuda()
    if cuda is not None:
        for number in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(number)


@contextmanager
def measuring() -> Iterator[Peak]:
    """Measure this process during the block; the yielded `Peak` is filled in at its end. Blocks do not nest."""
    peak = Peak()
    _reset_gpu()
    sampler = None
    if _reset_mark():
        peak.measure = HIGH_WATER_MARK
    else:
        sampler = _Sampler([psutil.Process()], _STAGE_INTERVAL)
        peak.measure = SAMPLED
    try:
        yield peak
    finally:
        if sampler is None:
            peak.resident_mib = _mark()
        else:
            peak.resident_mib = sampler.stop()
            if peak.resident_mib is None:
                peak.resident_mib, peak.measure = _since_start(), WHOLE_PROCESS
        peak.gpu_mib = _gpu_peak()


@contextmanager
def measuring_children(variable: str, value: str) -> Iterator[Peak]:
    """Measure the processes started during the block that have an environment variable set to a value, together.

    Their resident memory is summed (pages that they share count for each) and looked at twice a second.
    """
    peak = Peak(measure=SAMPLED)
    sampler = _Sampler(_Children(variable, value), _SECTION_INTERVAL)
    try:
        yield peak
    finally:
        peak.resident_mib = sampler.stop()


class _Children:
    """Descendants of this process that have an environment variable set to a value, as they are when iterated."""

    def __init__(self, variable: str, value: str) -> None:
        self._wanted = (variable, value)
        # Those that have it. Who lacks it is asked again: between fork and exec the environment is the parent's.
        self._known: set[psutil.Process] = set()

    def __iter__(self) -> Iterator[psutil.Process]:
        name, value = self._wanted
        for process in psutil.Process().children(recursive=True):
            if process not in self._known:
                try:
                    if process.environ().get(name) != value:
                        continue
                except (psutil.Error, OSError):
                    continue
                self._known.add(process)
            yield process


class _Sampler:
    """Thread that keeps the highest sum of the resident memory of processes."""

    def __init__(self, processes: Any, interval: float) -> None:
        self._processes = processes
        self._interval = interval
        self._highest: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._look()
            if self._stop.wait(self._interval):
                return

    def _look(self) -> None:
        total, seen = 0, False
        try:
            for process in self._processes:
                try:
                    total += process.memory_info().rss
                    seen = True
                except (psutil.Error, OSError):  # it has just ended
                    continue
        except (psutil.Error, OSError):
            return
        if seen:
            self._highest = max(self._highest or 0.0, total / _MIB)

    def stop(self) -> float | None:
        self._stop.set()
        self._thread.join()
        return self._highest


def threads() -> int | None:
    """Threads that torch computes with in this process; None where torch is not loaded."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def thread_settings() -> dict[str, str]:
    """Environment variables that set the number of threads, as far as they are set."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


_CGROUP = Path("/sys/fs/cgroup")
_GPU_FIELDS = "name,driver_version,memory.total"


def describe_machine() -> dict[str, Any]:
    """The machine as a manifest has it; what cannot be known is None, never an error."""
    gpus = _gpus()
    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "core_limit": _core_limit(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "memory_limit_bytes": _number(_CGROUP / "memory.max"),
        "thread_settings": thread_settings(),
        "gpus": [{"name": gpu[0], "memory_mib": int(gpu[2])} for gpu in gpus],
        "gpu_driver": gpus[0][1] if gpus else None,
        "cuda_runtime": _cuda_runtime(),
    }


def processor_name() -> str:
    """Name of the processor, as the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def granted_cores() -> int:
    """Cores that this process may keep busy: those it may run on, or fewer where a container grants less time."""
    limit = _core_limit()
    cores = _usable_cores() or 1
    return cores if limit is None else max(1, min(cores, int(limit)))


def cores_are_limited() -> bool:
    """Whether a container grants less time than the cores that this process sees, which libraries then overrate."""
    return granted_cores() < (_usable_cores() or 1)


def granted_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or fewer where a container grants less."""
    total = int(psutil.virtual_memory().total)
    limit = _number(_CGROUP / "memory.max")
    return total if limit is None else min(total, limit)


def _usable_cores() -> int | None:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _core_limit() -> float | None:
    """Cores' worth of time that a container grants (``docker run --cpus``), None for no limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return round(int(quota) / int(period), 2)
    except (OSError, ValueError):  # no control group, or "max"
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _gpus() -> list[tuple[str, str, str]]:
    """Name, driver version and memory (MiB) of every NVIDIA GPU, none where nvidia-smi is not there or fails."""
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3 and row[2].isdigit()]


def _cuda_runtime() -> str | None:
    """CUDA version that torch was built with; read from its file, for loading torch takes seconds and memory."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"^cuda\b.*=\s*'([\d.]+)'", text, flags=re.MULTILINE)
    return version[1] if version else None


THREADS_VARIABLE = "CRANE_THREADS"  # all threads, told to a section whose own share is in OMP_NUM_THREADS

# Settings of what computes; none changes a number. Threads that wait for one another sleep instead of spinning: where
# another program wants a core, spinning made training ten to twenty times slower. And glibc keeps freed memory for the
# next tensor instead of giving it back to the system and having it zeroed anew: a sixth of the time of training.
RUNTIME = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}


def all_threads() -> int:
    """Threads that a single computation uses on this machine."""
    for name in (THREADS_VARIABLE, "OMP_NUM_THREADS"):
        given = os.environ.get(name, "")
        if given.isdigit() and int(given):
            return int(given)
    return granted_cores()


@contextmanager
def on_all_threads() -> Iterator[None]:
    """Let torch, if it is loaded, compute with all threads during the block, and afterwards with as many as before."""
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
