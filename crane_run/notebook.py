"""Executing one notebook with papermill, its mistakes turned into one line."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from crane_lib.errors import CraneError
from crane_study import ROOT
from crane_study.profile import nearest


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


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x07")
_END = "end: "
BAR_SECONDS = 15.0  # a progress bar leaves a line this often, and its last state


class SectionLog:
    """Text file of one section, written line by line as they come.

    A start writes the file anew, except that what a start left behind which did not come to its end stays above.
    Progress bars, which write over themselves, leave a line now and then instead of thousands.

    Parameters
    ----------
    path : file to write
    heading : of this start, such as ``03  Perplexity``
    """

    def __init__(self, path: Path, *, heading: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _unfinished(path)
        self._stream = path.open("a" if kept else "w", encoding="utf-8", errors="replace", buffering=1)
        self._line = ""  # what has come since the last end of a line
        self._bar_written = time.monotonic()
        self.last = ""
        self.note(f"start: {heading}", gap=bool(kept))

    def __enter__(self) -> SectionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Descriptor, for what a kernel's process itself writes (a crash, say)."""
        return self._stream.fileno()

    def note(self, text: str, *, gap: bool = False) -> None:
        """A line of the runner's own, with the time of day."""
        self._break()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stream.write(f"{chr(10) if gap else ''}[{stamp}] {text}\n")

    def write(self, text: str) -> None:
        """Output of a cell, in pieces of any size."""
        # A carriage return before an end of line is part of it; any other one says that the line is written anew.
        pieces = re.split(r"(\r?\n|\r)", _CONTROL.sub("", text))
        for piece in pieces:
            if piece.endswith("\n"):
                self._break(blank=True)
            elif piece == "\r":
                self._write_over()
            else:
                self._line += piece

    def flush(self) -> None:
        """Nothing to do: lines are written as they come."""

    def end(self, text: str) -> None:
        """How the section ended; a log with this line is finished."""
        self.note(_END + text)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._break()
        self._stream.close()

    def _break(self, *, blank: bool = False) -> None:
        """End the line that has come so far; an empty one is written only if the cells meant it."""
        if self._line.strip() or blank:
            self._stream.write(self._line.rstrip() + "\n")
            self.last = self._line.strip() or self.last
        self._line = ""

    def _write_over(self) -> None:
        """The line is about to be written anew: keep this state if none was kept for a while."""
        self.last = self._line.strip() or self.last
        if self._line.strip() and time.monotonic() - self._bar_written >= BAR_SECONDS:
            self._bar_written = time.monotonic()
            self._break()
        self._line = ""


def _unfinished(path: Path) -> bool:
    """Whether a log is there that lacks its end."""
    if not path.is_file():
        return False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return bool(lines) and f"] {_END}" not in lines[-1]


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(Exception):
    """A cell of a notebook failed; the message is the error's last line."""


def known_parameters(notebook: Path) -> list[str]:
    """Names that a notebook's parameters cell sets."""
    import papermill

    return list(papermill.inspect_notebook(str(notebook)))


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that a notebook does not have; papermill itself would only warn and run on.

    Raises
    ------
    CraneError : a name is unknown; the nearest right one is named
    """
    known = known_parameters(notebook)
    for name in parameters:
        if name not in known:
            raise CraneError(f"{notebook.name}: unknown parameter {name!r}; {nearest(name, known)}")


def execute(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    variables: Mapping[str, str],
    log: SectionLog,
    kernels: Kernels,
) -> None:
    """Execute a notebook; the executed copy is `output`, or ``<name>.failed.ipynb`` beside it.

    Several may be executed at once, each in a thread of its own: nothing of this process is changed.

    Parameters
    ----------
    variables : environment of the kernel, beside that of this process
    log : gets what the cells print, and the traceback of a failure
    kernels : the kernel is one of them while it lives

    Raises
    ------
    CraneError : an unknown parameter
    NotebookError : a cell failed
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    check_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    running = output.with_name(f".{output.stem}.partial.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        with TemporaryDirectory(prefix="crane-") as sockets:
            papermill.execute_notebook(
                str(notebook),
                str(running),
                parameters=dict(parameters),
                engine_name=ENGINE,
                kernel_name="python3",
                progress_bar=False,
                # Kernels talk through sockets in a folder of this user's own, which others cannot reach.
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
                extra_arguments=["--IPKernelApp.log_level=50"],
                resources={"metadata": {"path": str(ROOT)}},  # where the kernel starts; `cwd` would move this process
                variables={**variables, "PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
                section_log=log,
                kernels=kernels,
            )
    except PapermillExecutionError as error:
        os.replace(running, failed)
        log.write("\n".join(error.traceback) + "\n")
        message = _COLOURS.sub("", f"{error.ename}: {error.evalue}").strip().splitlines()
        raise NotebookError(message[0].removeprefix("CraneError: ") if message else error.ename) from error
    except (DeadKernelError, CellTimeoutError) as error:
        if running.is_file():
            os.replace(running, failed)
        raise NotebookError(f"its kernel died ({error}); was there too little memory?") from error
    except RuntimeError as error:
        raise NotebookError(f"its kernel did not start ({error})") from error
    else:
        os.replace(running, output)
        failed.unlink(missing_ok=True)
    finally:
        running.unlink(missing_ok=True)


ENGINE = "crane"
START_SECONDS = 300  # a kernel may be slow to start on a busy machine
_QUIET = logging.getLogger("crane.kernels")  # what goes wrong is raised; a line on the terminal would say it twice
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no types
    """A client that starts its kernel as the section wants it and tells the log which cell is at work."""

    def __init__(
        self, nb_man: Any, *, variables: Mapping[str, str], kernels: Kernels, section_log: SectionLog, **options: Any
    ) -> None:
        super().__init__(nb_man, stdout_file=section_log, stderr_file=section_log, **options)
        self._variables, self._kernels, self._section_log = variables, kernels, section_log
        self._process: int | None = None

    def start_new_kernel(self, **options: Any) -> None:
        log = self._section_log
        super().start_new_kernel(env={**os.environ, **self._variables}, stdout=log, stderr=log, **options)
        assert self.km is not None
        self._process = self.km.provisioner.pid
        self._kernels.add(self._process)

    def _cleanup_kernel(self) -> None:
        try:
            super()._cleanup_kernel()
        finally:
            if self._process is not None:
                self._kernels.remove(self._process)

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        if cell.cell_type == "code" and cell.source.strip():
            first = cell.source.strip().splitlines()[0]
            self._section_log.note(f"cell {cell_index}: {first}")
        return super().execute_cell(cell, cell_index, **options)


class SectionEngine(NBClientEngine):  # type: ignore[misc]  # papermill has no types
    """Papermill's engine with the client above."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Execute a notebook in a new kernel."""
        for name in ("input_path", "log_output", "stdout_file", "stderr_file", "start_timeout"):
            options.pop(name, None)
        return _Client(nb_man, kernel_name=kernel_name, startup_timeout=START_SECONDS, log=_QUIET, **options).execute()


papermill_engines.register(ENGINE, SectionEngine)
