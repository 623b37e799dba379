"""A judge on a local server whose replies a test chooses."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from crane_study.measure.judge_endpoint import PLAIN


def judging(score=7, reason="It names the city."):
    """Reply of a judge that gives this score."""
    return reply(json.dumps({"score": score, "reason": reason}))


def reply(content: str, *, status=200, **headers):
    body = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    return status, headers, json.dumps(body).encode()


class Stub:
    """Requests to the server, and the highest number of them at the same time.

    `answer` gets the number of the request (from 1) and its body, and returns status, headers and body. The plain
    answer that a judge is tried with is scored and not recorded, unless the server is `picky`.
    """

    def __init__(self, answer: Callable, key: str, *, picky: bool) -> None:
        self.answer, self.key, self.picky = answer, key, picky
        self.bodies: list[dict] = []
        self.paths: list[str] = []
        self.open = self.most = 0
        self._lock = threading.Lock()

    def handle(self, path, headers, body):
        if not self.picky and PLAIN[0] in body["messages"][-1]["content"]:
            return judging() if headers.get("Authorization") == f"Bearer {self.key}" else (401, {}, b"")
        with self._lock:
            self.open += 1
            self.most = max(self.most, self.open)
            self.bodies.append(body)
            self.paths.append(path)
            number = len(self.bodies)
        try:
            if headers.get("Authorization") != f"Bearer {self.key}":
                return 401, {}, json.dumps({"error": f"wrong key {headers.get('Authorization')}"}).encode()
            return self.answer(number, body)
        finally:
            with self._lock:
                self.open -= 1


@contextmanager
def stub_server(answer: Callable, *, key="secret-key-123", picky=False, port=0) -> Iterator[tuple[str, Stub]]:
    """Start a server in a thread, by default at any free port; gives its address and its record."""
    stub = Stub(answer, key, picky=picky)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, content = stub.handle(self.path, self.headers, body)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client did not wait

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", stub
        finally:
            server.shutdown()
            thread.join()


def slowly(answer: Callable, seconds: float) -> Callable:
    """Give the same answers, late."""

    def late(number, body):
        time.sleep(seconds)
        return answer(number, body)

    return late
