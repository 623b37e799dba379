"""Several processes that share one piece of work, started by torchrun: ranks and barriers.

Only small messages are sent between processes; results are files. So gloo serves GPUs as well as CPUs, and a process
may use one device or several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from crane_lib.errors import CraneError

# A process may wait while another one trains a model; one that dies is noticed at once, by its connection.
PATIENCE = timedelta(days=14)


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
