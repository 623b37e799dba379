"""Several processes at one piece of work, started by torchrun: who they are and how they wait for one another.

Only small messages go between processes; results travel as files. So gloo serves on GPUs as well as on CPUs, and a
process may have a device, or several, of its own.
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

# A process may wait for another through the training of a model; one that dies is noticed at once, by its connection.
PATIENCE = timedelta(days=14)


class OtherProcessEnded(CraneError):
    """The process that this one waited for has ended; what was wrong, it said itself."""


def rank() -> int:
    """Number of this process, 0 for the first or only one."""
    return distributed.get_rank() if _grouped() else 0


def world() -> int:
    """Number of processes that work together."""
    return distributed.get_world_size() if _grouped() else 1


@contextmanager
def processes() -> Iterator[None]:
    """Join the other processes that torchrun started, if it did; they part at the end of the block.

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
    """Wait until every process has come here.

    Raises
    ------
    OtherProcessEnded : one of them never will
    """
    share(None)


def share(value: Any) -> Any:
    """Give every process what the first one passes; a barrier too, for none leaves before all have come.

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
        raise OtherProcessEnded("another process of this run has ended; start again to go on") from error
    return box[0]


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


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
