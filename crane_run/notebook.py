"""Execution of one notebook: papermill in a process of its own, whose failure becomes one line.

The runner starts ``python -m crane_run.notebook`` per section, writes what to do as one line of JSON to its standard
input and keeps that pipe open. When the pipe closes, because the runner interrupts the section or has died, even by
SIGKILL, the process ends its kernel and itself. When the process dies, the kernel notices by itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, TextIO

import psutil

from crane_lib.errors import CraneError
from crane_study import ROOT
from crane_study.profile import nearest
from crane_study.progress import FILE_VARIABLE

_PATIENCE = 10.0  # seconds that a process has to end its kernel
_FAILED = 1  # exit code: a cell failed, standard output has the message
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
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
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "crane_run.notebook"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stream,
            cwd=ROOT,
            env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1", **variables, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C on the terminal is the runner's to handle
            text=True,
        )
        order = {"notebook": str(notebook), "output": str(self._running), "parameters": dict(parameters)}
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order, default=str) + "\n")
            self._process.stdin.flush()

    def is_alive(self) -> bool:
        """Return whether the process is at work; its memory, with that of all it started, is measured on the way."""
        if self._process.poll() is not None:
            return False
        with suppress(psutil.Error):
            process, total = psutil.Process(self._process.pid), 0
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    total += one.memory_info().rss
            self.peak_memory_mib = max(self.peak_memory_mib, round(total / _MIB, 1))
        return True

    def result(self) -> str | None:
        """Put the executed notebook in its place after the end; returns the error in one line, None if all is done."""
        assert self._process.stdout is not None
        error = self._process.stdout.read().strip() or None
        code = self._process.wait()
        if code not in (0, _FAILED):
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            error = f"its process ended ({how}); was there too little memory?"
            _end_processes(self._mark)
        if self._running.is_file():
            os.replace(self._running, self.failed if error else self._output)
        if error is None:
            self.failed.unlink(missing_ok=True)
        return error

    def stop(self) -> None:
        """End the process, its kernel and all that they started, now."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            _end_processes(self._mark)
            self._process.wait()
        self._running.unlink(missing_ok=True)

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
    stream = path.open("a" if unfinished else "w", encoding="utf-8", buffering=1)
    stream.write("\n" if unfinished else "")
    return stream


def _end_processes(mark: str) -> None:
    """Kill all other processes of a section, which have its mark in their environment."""

    def is_marked(process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return process.pid != os.getpid() and process.environ().get(FILE_VARIABLE) == mark
        return False

    for _ in range(10):  # they may start others meanwhile
        if not (found := list(filter(is_marked, psutil.process_iter()))):
            return
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)


def main() -> None:
    """Execute the notebook that a line of standard input names; on failure print one line and exit with code 1."""
    order = json.loads(sys.stdin.readline())
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")  # not for the kernel, which inherits standard output
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with TemporaryDirectory(prefix="crane-") as sockets:
        Thread(target=_end_with_runner, args=(sockets,), daemon=True).start()
        error = _execute(**order, sockets=sockets)
    if error is not None:
        print(error, file=answer, flush=True)
        raise SystemExit(_FAILED)


def _end_with_runner(sockets: str) -> None:
    """Wait until the runner closes standard input or has died; then end the kernel and this process."""
    os.read(sys.stdin.fileno(), 1)
    _end_processes(os.environ[FILE_VARIABLE])
    shutil.rmtree(sockets, ignore_errors=True)
    os._exit(_FAILED)


def _execute(notebook: str, output: str, parameters: Mapping[str, Any], sockets: str) -> str | None:
    """Execute a notebook; returns the error in one line, None if every cell is done."""
    import logging

    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    cells = logging.StreamHandler(sys.stderr)  # the lines on which cell is at work; outputs come as they are
    cells.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%Y-%m-%d %H:%M:%S"))
    cells.addFilter(lambda record: record.module == "engines")
    papermill.log.logger.addHandler(cells)
    papermill.log.logger.setLevel(logging.INFO)
    papermill.log.logger.propagate = False
    said = {"log_output": True, "progress_bar": False, "stdout_file": sys.stderr, "stderr_file": sys.stderr}
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            kernel_name="python3",
            **said,
            start_timeout=300,  # seconds; a kernel may be slow to start on a busy machine
            # Kernels talk through sockets in a folder of this user's own, which others cannot reach.
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except PapermillExecutionError as error:
        print(_COLOURS.sub("", "\n".join(error.traceback)), file=sys.stderr)
        lines = _COLOURS.sub("", f"{error.ename}: {error.evalue}").strip().splitlines()
        return f"cell {error.cell_index + 1}: {(lines or [error.ename])[0].removeprefix('CraneError: ')}"
    except DeadKernelError as error:
        return f"its kernel died ({error}); was there too little memory?"
    except RuntimeError as error:
        return f"its kernel did not start ({error})"
    return None


if __name__ == "__main__":
    main()
