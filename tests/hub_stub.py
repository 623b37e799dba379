"""A stand-in for the Hugging Face hub on the loopback address, which records requests and keeps files."""

import base64
import json
import threading
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0" * 20


class HubStub:
    """Files by name, and every request: method, path, headers, body. `refuse`: all are answered with 403."""

    def __init__(self):
        self.files, self.requests, self.refuse, self.address = {}, [], False, ""

    def answer(self, method, path, body):
        """Status and content of the answer to a request."""
        if self.refuse:
            return 403, {"error": "Forbidden"}
        if "/resolve/" in path:
            name = path.split("/resolve/")[1].partition("/")[2]
            return (200, self.files[name]) if name in self.files else (404, {})
        if path.endswith("/api/repos/create"):
            return 200, {"url": f"{self.address}/datasets/me/neurons"}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "deletedFile":
                    del self.files[line["value"]["path"]]
            return 200, {"commitUrl": f"{self.address}/datasets/me/neurons/commit/{COMMIT}", "commitOid": COMMIT}
        if "/tree/" in path:
            entries = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in self.files.items()]
            return 200, entries
        if "/api/datasets/" in path:
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {"id": "me/neurons", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        return 200, {"errors": [], "warnings": []}

    def bodies(self, pattern):
        """Bodies of the requests to paths that match."""
        return [body for _method, path, _headers, body in self.requests if fnmatch(path, pattern)]


@contextmanager
def hub_stub():
    """A stub at an address."""
    stub = HubStub()

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            stub.requests.append((self.command, path, dict(self.headers), body))
            status, content = stub.answer(self.command, path, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
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
