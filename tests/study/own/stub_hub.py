"""A hub on the loopback interface with one data set, which answers what its libraries ask."""

import json
import re
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlparse

import datasets
from huggingface_hub import constants

COMMIT = "a" * 40
NAME = "some/texts"


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def log_message(self, *_arguments):
        pass

    def do_HEAD(self):  # the name is http.server's
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        if re.fullmatch(rf"/api/datasets/{NAME}(/revision/(main|{COMMIT}))?", path):
            listed = [{"rfilename": name} for name in self.files]
            self._send(json.dumps({"id": NAME, "sha": COMMIT, "siblings": listed, "tags": []}).encode())
        elif found := re.fullmatch(rf"/api/datasets/{NAME}/tree/{COMMIT}/?(.*)", path):
            sizes = {name: data for name, data in self.files.items() if name.startswith(found[1])}
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                for name, data in sizes.items()
            ]
            self._send(json.dumps(rows).encode())
        elif (found := re.fullmatch(rf"/datasets/{NAME}/resolve/{COMMIT}/(.+)", path)) and found[1] in self.files:
            self._send(self.files[found[1]], ETag='"x"')
        else:
            reason = "EntryNotFound" if NAME in path else "RepoNotFound"
            if "/revision/" in path and NAME in path:
                reason = "RevisionNotFound"
            self._send(b"{}", status=404, **{"X-Error-Code": reason})

    def _send(self, data, *, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def stub_hub(files: dict[str, str], monkeypatch, cache):
    """Let the hub's libraries ask a server of this process, which has these files of the data set."""
    handler = type("Answers", (_Answers,), {"files": {name: text.encode() for name, text in files.items()}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    for where, name, value in (
        (constants, "ENDPOINT", at),
        (constants, "HUGGINGFACE_CO_URL_TEMPLATE", at + "/{repo_id}/resolve/{revision}/{filename}"),
        (constants, "HF_HUB_CACHE", str(cache)),
        (constants, "HF_HUB_OFFLINE", False),
        (datasets.config, "HF_ENDPOINT", at),
        (datasets.config, "HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(where, name, value)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
