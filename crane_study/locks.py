"""Locks between processes and threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from crane_lib.errors import CraneError


@contextmanager
def locked(path: str | os.PathLike[str], *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock that other processes and threads wait for; a process that dies releases it.

    Parameters
    ----------
    path : lock file; removed when nobody holds the lock
    waiting : called once if the lock is held elsewhere

    Raises
    ------
    CraneError : the folder cannot be written to
    """
    path = Path(path)
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except OSError as error:
        raise CraneError(f"{path.parent}: cannot be written ({error.strerror}); choose another --artifacts") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for this file then tries a new one
        lock.release()
