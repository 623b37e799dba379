"""Several processes that share one piece of work, started by torchrun: ranks, barriers, and the end of orphans.

Only small messages are sent between processes; results are files. So gloo serves GPUs as well as CPUs, and a process
may use one device or several.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psutil
import torch
from torch import distributed

from crane_lib.errors import CraneError

# A process may wait while another one trains a model; one that dies is noticed at once, by its connection.
PATIENCE = timedelta(days=14)
INTERVAL = 1.0  # seconds between looks at watched processes
ORPHANED = 3  # exit code of a process that ends because a watched one has ended


class OtherProcessEnded(CraneError):
    """The process that this one waited for has ended and reported its own error."""


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Rank of this process; 0 for the first or only one."""
    return distributed.get_rank() if _grouped() else 0


def world() -> int:
    """Number of processes that work together."""
    return distributed.get_world_size() if _grouped() else 1


@contextmanager
def processes() -> Iterator[None]:
    """Join the group of processes inside the block if torchrun started several.

    Raises
    ------
    CraneError : the others cannot be reached
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _grouped():
        yield
        return
    try:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CraneError(
            f"the other processes of this run cannot be reached ({reason}); start it with torchrun, see "
            "docs/distributed.md"
        ) from error
    try:
        yield
    finally:
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process has reached this point.

    Raises
    ------
    OtherProcessEnded : a process has ended
    """
    share(None)


def share(value: Any) -> Any:
    """Return the value of the first process in every process, after all have reached this point.

    Raises
    ------
    OtherProcessEnded : a process has ended
    """
    if world() == 1:
        return value
    box = [value]
    try:
        distributed.barrier()
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    except RuntimeError as error:
        raise OtherProcessEnded("another process of this run has ended; start again to continue") from error
    return box[0]


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
