"""A judge's server as a process of its own, which can be killed: ``python -m tests.faults.judge PORT``."""

from __future__ import annotations

import hashlib
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

import psutil

from crane_study import ROOT
from crane_study.measure.judge_endpoint import KEY, MODEL, URL
from tests.study.measure.judge_server import judging, slowly, stub_server

NAME = "the judge's server"
_KEY = "key-of-a-test"
_SECONDS = 0.03  # of a judging


def answer(_number: int, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Give a score that depends on nothing but what is asked."""
    asked = hashlib.sha256(body["messages"][-1]["content"].encode()).digest()
    return judging(score=1 + asked[0] % 10, reason=f"number {asked.hex()[:8]}")


class Server:
    """The process, always at the same port; `environment` tells a study of it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.environment = {URL: f"http://127.0.0.1:{self._port}/v1", MODEL: "judge", KEY: _KEY}
        self.process: psutil.Popen | None = None
        self.start()

    def start(self) -> None:
        """Start the process unless it runs, and wait until it listens."""
        if self.process is not None and self.process.poll() is None:
            return
        self.process = psutil.Popen([sys.executable, "-m", "tests.faults.judge", str(self._port)], cwd=ROOT)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self._port)):
                return
            time.sleep(0.05)
        raise RuntimeError("the judge's server does not listen")

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            with suppress(psutil.NoSuchProcess):
                self.process.kill()
            self.process.wait()


if __name__ == "__main__":
    with stub_server(slowly(answer, _SECONDS), key=_KEY, port=int(sys.argv[1])):
        signal.pause()
