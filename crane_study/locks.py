"""Locks between processes and threads, and waiting for files of other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from crane_lib.errors import CraneError

VISIBLE_SECONDS = 60.0  # network file systems may show a new file to other machines only after a while
_Found = TypeVar("_Found")


@contextmanager
def locked(path: str | os.PathLike[str], *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock that other processes and threads wait for; a process that dies releases it.

    The lock file is removed when nobody holds the lock. `waiting` is called once if it is held elsewhere.
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


def wait_for(path: Path, look: Callable[[], _Found | None]) -> _Found:
    """Return what another process has written, as soon as it is visible here."""
    patience = time.monotonic() + VISIBLE_SECONDS
    while (found := look()) is None:
        if time.monotonic() > patience:
            raise CraneError(
                f"{path}: another process wrote it, but it is not visible from here; --artifacts must be on a disk "
                "that all machines share"
            )
        time.sleep(0.2)
    return found
