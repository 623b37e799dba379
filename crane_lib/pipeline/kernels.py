"""The kernels of a run, all of them stoppable at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress


class Kernels:
    """Kernels at work; a kernel leads a process group of its own, which Ctrl-C on the terminal does not reach."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self.stopped = False

    def add(self, process: int) -> None:
        """Count a kernel in; where all were told to stop it is stopped at once."""
        with self._lock:
            self._groups.add(process)
            if self.stopped:
                self._kill()

    def remove(self, process: int) -> None:
        """Count a kernel out that has ended."""
        with self._lock:
            self._groups.discard(process)

    def stop(self) -> None:
        """End every kernel, and what it started, now; a later one ends as soon as it has begun."""
        with self._lock:
            self.stopped = True
            self._kill()

    def _kill(self) -> None:
        for group in self._groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
