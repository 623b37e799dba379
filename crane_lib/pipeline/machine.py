"""What a run was made on: processor, cores and memory (limits of a container too), threads, GPUs."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from crane_lib.pipeline.memory import thread_settings

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
