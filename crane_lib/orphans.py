"""Ending a process whose work nobody waits for any more.

torchrun puts its processes into sessions of their own, which neither a signal to the group of whoever started torchrun
nor a signal to torchrun itself reaches, if it is one that cannot be caught.
"""

from __future__ import annotations

import os
import threading
import time

import psutil  # type: ignore[import-untyped]

INTERVAL = 1.0  # seconds between looks
ORPHANED = 3  # exit code


def end_with(*processes: int) -> None:
    """End this process, at once and from a thread of its own, as soon as one of the processes has ended."""
    try:
        watched = [psutil.Process(number) for number in processes]
    except psutil.NoSuchProcess:
        os._exit(ORPHANED)
    threading.Thread(target=_watch, args=(watched,), daemon=True).start()


def _watch(watched: list[psutil.Process]) -> None:
    while all(_lives(process) for process in watched):
        time.sleep(INTERVAL)
    os._exit(ORPHANED)  # not by an exception: the main thread may be within a computation, or wait for others


def _lives(process: psutil.Process) -> bool:
    """Whether a process, and not a later one of its number, is there and is more than an entry in the table."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
