"""Processes of sections: forks of a server that has imported once what all of them need from other packages.

``python -m crane_run.server`` imports and then waits at its standard input, a socket. For every section the runner
sends a pair of pipes and a log: one pipe brings the order as a line of JSON and stays open, the other one takes the
answers. The server forks a keeper, which forks the section in a session of its own, waits for it and ends all that it
leaves behind. When the first pipe closes, because the runner interrupts the section or has died, even by SIGKILL, the
keeper ends the section, which does not outlive the keeper either. The server ends when the runner does.

Modules of this repository are not imported here: a section reads the code as it is when it starts, since its stages
are kept under the hash of that code.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from threading import Event, Thread
from typing import Any, NoReturn

import psutil

from crane_study import ROOT
from crane_study.machine import RUNTIME
from crane_study.progress import FILE_VARIABLE

# What is missing here is imported by every section that needs it, so this list changes no result.
IMPORTED = (
    "IPython.core.interactiveshell",
    "babel",
    "datasets",
    "jinja2",
    "lm_eval.models.huggingface",
    "lm_eval.tasks",
    "papermill",
    "pyarrow.parquet",
    "scipy.stats",
    "seaborn",
    "sklearn.metrics",
    "transformers.models.llama.modeling_llama",
    "typer",
)
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


class Server:
    """The server of this process's sections; they have the libraries as the environment set them at its start."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        settings = {name: os.environ.get(name, value) for name, value in RUNTIME.items()}
        # If a library asks for GPUs, it must not start CUDA in the server, whose forks could not use it then.
        settings |= {"PYTHONPATH": _path(), "MPLBACKEND": "agg", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "crane_run.server", *IMPORTED],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | settings,
            start_new_session=True,  # Ctrl-C on the terminal is the runner's to handle
        )
        theirs.close()

    def is_alive(self) -> bool:
        """Return whether the server is there."""
        return self._process.poll() is None

    def begin(self, order: dict[str, Any], variables: Mapping[str, str], *, log: int) -> tuple[int, int]:
        """Start a section with `variables` in addition to this process's environment.

        Returns the pipe that keeps it alive, and the one from which its answers are read.
        """
        order |= {"variables": {**os.environ, "PYTHONPATH": _path(), **variables}}
        order_end, order_here = os.pipe()
        answers_here, answers_end = os.pipe()
        with suppress(BrokenPipeError):  # then the answers end at once
            socket.send_fds(self._socket, [b"."], [order_end, answers_end, log])
        for end in (order_end, answers_end):
            os.close(end)
        with suppress(BrokenPipeError), open(os.dup(order_here), "w", encoding="utf-8") as stream:
            stream.write(json.dumps(order, default=str) + "\n")
        return order_here, answers_here


_started: list[Server] = []


def started_server() -> Server:
    """Return the server of this process; start it if there is none, or if it died."""
    if not _started or not _started[0].is_alive():
        _started[:] = [Server()]
    return _started[0]


def _path() -> str:
    """PYTHONPATH of the section's processes."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def end_processes(section: int, mark: str) -> None:
    """Kill what a section started: its session, and other processes that have its mark in their environment."""

    def belongs(process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return os.getsid(process.pid) == section or process.environ().get(FILE_VARIABLE) == mark
        return False

    for _ in range(10):  # they may start others meanwhile
        found = [process for process in psutil.process_iter() if belongs(process)]
        if not found:
            return
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)


def main() -> None:
    """Import, then fork a keeper for every section until the runner ends."""
    runner = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    for name in sys.argv[1:]:
        with suppress(Exception):  # the section that needs it reports the error
            importlib.import_module(name)
    gc.freeze()  # a collection in a section would copy the pages of all these objects
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a keeper
    while True:
        _byte, files, _flags, _address = socket.recv_fds(runner, 1, 3)
        if not files:
            return
        if os.fork() == 0:
            runner.close()
            _exit_after(partial(_keep, *files))
        for file in files:
            os.close(file)


def _exit_after(work: Callable[[], None]) -> NoReturn:
    """End this process after some work, with exit code 1 after an exception."""
    code = 1
    try:
        work()
        code = 0
    except Exception:  # the last frame of a fork: nobody above it could report
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _keep(orders: int, answers: int, log: int) -> None:
    """Keep a section: fork it, answer with its exit code, and leave nothing behind."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, TextIOWrapper)
        os.dup2(log, stream.fileno())
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    os.close(log)
    with open(orders, encoding="utf-8") as life:
        line = life.readline()
        if not line or select.select([life], [], [], 0)[0]:  # closed already
            return
        order = json.loads(line)
        keeper, section = os.getpid(), os.fork()
        if section == 0:
            os.setsid()
            _end_with(keeper)
            life.close()
            _exit_after(partial(_work, order, answers))
        _answer(answers, process=section)
        ended = Event()

        def end_with_runner() -> None:
            os.read(life.fileno(), 1)
            if not ended.is_set():
                os.kill(section, signal.SIGKILL)

        Thread(target=end_with_runner, daemon=True).start()
        code = os.waitstatus_to_exitcode(os.waitpid(section, 0)[1])
        ended.set()
        end_processes(section, order["variables"][FILE_VARIABLE])
        _answer(answers, code=code)


def _end_with(keeper: int) -> None:
    """Have the kernel kill this process when its parent ends, where it can (Linux), even if nobody else is left."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)


def _answer(answers: int, **content: Any) -> None:
    with suppress(BrokenPipeError):
        os.write(answers, (json.dumps(content) + "\n").encode())


def _work(order: dict[str, Any], answers: int) -> None:
    """Execute the notebook of an order and answer with its error."""
    os.environ.clear()
    os.environ.update(order["variables"])
    _use_threads(os.environ.get("OMP_NUM_THREADS", ""))
    from crane_run.cells import execute

    _answer(answers, error=execute(order["notebook"], order["output"], order["parameters"]))


def _use_threads(number: str) -> None:
    """Compute with so many threads; the variable itself is read when libraries are loaded, which was in the server."""
    if not number.isdigit():
        return
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(int(number))
    threadpool_limits(int(number))


if __name__ == "__main__":
    main()
