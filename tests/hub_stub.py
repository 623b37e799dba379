"""A stand-in for the Hugging Face hub on the loopback address, which records requests and keeps files."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "c0" * 20


class HubStub:
    """One data set and every request: method, path, headers, body. `refuse`: all are answered with 403."""

    def __init__(self, name, files):
        self.name, self.files = name, files
        self.requests, self.refuse, self.address = [], False, ""

    def answer(self, method, path, body):
        """Status and content of the answer to a request."""
        if self.refuse:
            return 403, {"error": "Forbidden"}
        about = path.partition(f"datasets/{self.name}")[2]
        if "/resolve/" in about:
            name = about.split("/resolve/")[1].partition("/")[2]
            return (200, self.files[name]) if name in self.files else (404, "EntryNotFound")
        if path.endswith("/api/repos/create"):
            return 200, {"url": f"{self.address}/datasets/{self.name}"}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "deletedFile":
                    del self.files[line["value"]["path"]]
            return 200, {"commitUrl": f"{self.address}/datasets/{self.name}/commit/{COMMIT}", "commitOid": COMMIT}
        if "/tree/" in about:
            under = about.split("/tree/")[1].partition("/")[2]
            found = {name: data for name, data in self.files.items() if name.startswith(under)}
            return 200, [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in found.items()]
        if re.fullmatch(rf"(/revision/(main|{COMMIT}))?", about) and path.startswith("/api/datasets/" + self.name):
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {"id": self.name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        if path.startswith("/api/datasets/") and method in ("GET", "HEAD"):
            return 404, "RevisionNotFound" if about else "RepoNotFound"
        return 200, {"errors": [], "warnings": []}

    def bodies(self, pattern):
        """Bodies of the requests to paths that match."""
        return [body for _method, path, _headers, body in self.requests if fnmatch(path, pattern)]


@contextmanager
def hub_stub(name, files=None):
    """A stub at an address, with one data set of these files."""
    stub = HubStub(name, dict(files or {}))

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlparse(self.path).path)
            stub.requests.append((self.command, path, dict(self.headers), body))
            status, content = stub.answer(self.command, path, body)
            self.send_response(status)
            if isinstance(content, str):
                self.send_header("X-Error-Code", content)
                content = {}
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{len(data)}-{hash(data) & 0xFFFF}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = respond

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


def asked_from_here(stub, monkeypatch, cache):
    """Let the hub's libraries in this process, which have read their settings, ask the stub."""
    import datasets
    from huggingface_hub import constants

    for where, name, value in (
        (constants, "ENDPOINT", stub.address),
        (constants, "HUGGINGFACE_CO_URL_TEMPLATE", stub.address + "/{repo_id}/resolve/{revision}/{filename}"),
        (constants, "HF_HUB_CACHE", str(cache)),
        (constants, "HF_HUB_OFFLINE", False),
        (datasets.config, "HF_ENDPOINT", stub.address),
        (datasets.config, "HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(where, name, value)
