"""The end of a process whose parent, or another process that it needs, has ended."""

from __future__ import annotations

import os
import threading
import time

import psutil

INTERVAL = 1.0  # seconds between looks at watched processes
ORPHANED = 3  # exit code of a process that ends because a watched one has ended


def end_with(*numbers: int) -> None:
    """End this process as soon as one of the processes with these numbers has ended, from a thread of its own."""
    try:
        watched = [psutil.Process(number) for number in numbers]
    except psutil.NoSuchProcess:
        os._exit(ORPHANED)
    threading.Thread(target=_watch, args=(watched,), daemon=True).start()


def _watch(watched: list[psutil.Process]) -> None:
    while all(_lives(process) for process in watched):
        time.sleep(INTERVAL)
    os._exit(ORPHANED)  # not by an exception: the main thread may be inside a computation or wait for others


def _lives(process: psutil.Process) -> bool:
    """Return whether a process runs; not a later one with its number, and not a zombie."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
