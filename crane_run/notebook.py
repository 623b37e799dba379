"""Execution of one notebook, as the runner sees it: its process, its log, and how it ended, in one line."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from crane_lib.errors import CraneError
from crane_run.server import end_processes, started_server
from crane_study.profile import nearest
from crane_study.progress import FILE_VARIABLE

_PATIENCE = 10.0  # seconds that a section has to be ended
_END = "end: "
_MIB = 1 << 20


def known_parameters(notebook: Path) -> list[str]:
    """Names that a notebook's parameters cell sets."""
    import papermill

    return list(papermill.inspect_notebook(str(notebook)))


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that a notebook does not have; papermill itself would only warn and continue."""
    known = known_parameters(notebook)
    if unknown := [name for name in parameters if name not in known]:
        raise CraneError(f"{notebook.name}: unknown parameter {unknown[0]!r}; {nearest(unknown[0], known)}")


class Execution:
    """A notebook that is being executed to `output`, or to ``<name>.failed.ipynb`` in the same folder.

    The environment gets `variables` in addition; the progress file among them marks all processes of the section.
    `log` gets all output after `heading`; an unfinished log is continued, any other one is replaced.
    """

    def __init__(
        self,
        notebook: Path,
        output: Path,
        parameters: Mapping[str, Any],
        *,
        variables: Mapping[str, str],
        log: Path,
        heading: str,
    ) -> None:
        self.log, self.peak_memory_mib = log, 0.0
        self._output, self._mark = output, variables[FILE_VARIABLE]
        self._running = output.with_name(f".{output.stem}.partial.ipynb")
        self.failed = output.with_name(f"{output.stem}.failed.ipynb")
        output.parent.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._stream = _open_log(log)
        self._note(f"start: {heading}")
        order = {"notebook": str(notebook), "output": str(self._running), "parameters": dict(parameters)}
        self._life, self._answers = started_server().begin(order, variables, log=self._stream.fileno())
        self._answered: dict[str, Any] = {}
        self._partial = b""

    @staticmethod
    def prepare() -> None:
        """Start the server of the sections' processes, which imports while this process goes on."""
        started_server()

    def is_alive(self) -> bool:
        """Return whether the section is at work; its memory, with that of all it started, is measured on the way."""
        if not self._listen(0.0):
            return False
        return "process" not in self._answered or self._measure(self._answered["process"])

    def _listen(self, seconds: float) -> bool:
        """Read what the section's processes answer, for so long; returns whether they are at work after that."""
        limit = time.monotonic() + seconds
        while "code" not in self._answered:
            if not select.select([self._answers], [], [], max(0.0, limit - time.monotonic()))[0]:
                return True
            if not (found := os.read(self._answers, 1 << 16)):
                return False
            *lines, self._partial = (self._partial + found).split(b"\n")
            for line in lines:
                self._answered |= json.loads(line)
        return False

    def _measure(self, number: int) -> bool:
        """Measure the memory of the section; returns whether it runs, which a killed keeper cannot answer."""
        try:
            process, total = psutil.Process(number), 0
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    total += one.memory_info().rss
            self.peak_memory_mib = max(self.peak_memory_mib, round(total / _MIB, 1))
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True

    def result(self) -> str | None:
        """Put the executed notebook in its place after the end; returns the error in one line, None if all is done."""
        self._end()
        code, error = self._answered.get("code"), self._answered.get("error")
        if code != 0 or "error" not in self._answered:
            known = "killed" if code is None else f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            error = f"its process ended ({known}); was there too little memory?"
        if self._running.is_file():
            os.replace(self._running, self.failed if error else self._output)
        if error is None:
            self.failed.unlink(missing_ok=True)
        return error

    def stop(self) -> None:
        """End the section's process and all that it started, now."""
        self._end()
        self._running.unlink(missing_ok=True)

    def _end(self) -> None:
        """Close the pipe at which the section's keeper ends what is still at work, and wait until it has."""
        os.close(self._life)
        self._listen(_PATIENCE if "process" in self._answered else 0.0)
        os.close(self._answers)
        if "process" in self._answered and "code" not in self._answered:  # nobody keeps it
            with suppress(ProcessLookupError):
                os.kill(self._answered["process"], signal.SIGKILL)
            end_processes(self._answered["process"], self._mark)

    def _note(self, text: str) -> None:
        """Write a line of the runner's own into the log, with the time of day."""
        self._stream.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n")

    def close(self, text: str, *, finished: bool = True) -> None:
        """Close the log with a last line; a log that is not finished is continued by the next start."""
        self._note(f"{_END if finished else ''}{text}")
        self._stream.close()

    def last_line(self) -> str:
        """Last line that the log has so far."""
        with self.log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1000))
            lines = re.split(r"[\r\n]+", stream.read().decode(errors="replace").strip())
        return lines[-1].strip()


def _open_log(path: Path) -> TextIO:
    """Open a log for writing line by line; what a start left that did not come to its end stays above."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    unfinished = bool(lines) and f"] {_END}" not in lines[-1]
    if not unfinished:
        path.unlink(missing_ok=True)
    stream = path.open("a", encoding="utf-8", buffering=1)
    stream.write("\n" if unfinished else "")
    return stream
