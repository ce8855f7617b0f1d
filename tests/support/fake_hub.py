"""A hub of models on loopback, with the routes that huggingface_hub calls to upload and download a model.

Each branch has a list of commits. A commit has all files of the repository. Nothing is stored as LFS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

Files = dict[str, bytes]


class Hub:
    """The content of a hub with one model: commits by digest, and branches."""

    def __init__(self) -> None:
        self.commits: dict[str, Files] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", {".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"})

    def commit(self, branch: str, files: Files) -> str:
        """Add a commit with these files to a branch. Returns its digest."""
        state = repr((self.branches.get(branch), sorted(files.items()))).encode()
        digest = hashlib.sha1(state).hexdigest()
        self.commits[digest], self.branches[branch] = files, digest
        return digest

    def resolved(self, revision: str) -> str:
        """The digest of a revision. Raises KeyError."""
        digest = self.branches.get(revision, revision)
        return digest if digest in self.commits else self.branches[revision]

    def apply(self, branch: str, lines: list[dict[str, Any]]) -> str:
        """Apply the operations of an upload. Returns the digest of the new commit."""
        files = dict(self.commits[self.resolved(branch)])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        return self.commit(branch, files)


def _oid(data: bytes) -> str:
    """The digest that git gives a file."""
    return hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """The routes of the hub."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def _handle(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if self.command == "POST" else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        try:
            self._route(path, body)
        except KeyError:
            self._send(404, b"{}", X_Error_Code="RevisionNotFound")

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _route(self, path: str, body: bytes) -> None:
        if found := re.fullmatch(r"/[\w-]+/[\w-]+/resolve/([\w.-]+)/(.+)", path):
            digest = self.hub.resolved(found[1])
            data = self.hub.commits[digest][found[2]]
            self._send(200, data, ETag=f'"{_oid(data)}"', X_Repo_Commit=digest)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._json({"url": f"http://{self.headers['Host']}/acme/toy", "name": "acme/toy", "id": "acme/toy"})
        elif found := re.fullmatch(r"/api/models/[\w-]+/[\w-]+(?:/(\w[\w-]*)/([\w.-]+))?", path):
            self._api(found[1] or "revision", found[2] or "main", body)
        else:
            self._send(404, json.dumps({"error": f"no route {path}"}).encode())

    def _api(self, action: str, revision: str, body: bytes) -> None:
        if action == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif action == "commit":
            digest = self.hub.apply(revision, [json.loads(line) for line in body.splitlines() if line])
            url = f"http://{self.headers['Host']}/acme/toy/commit/{digest}"
            self._json({"success": True, "commitUrl": url, "commitOid": digest})
        elif action == "branch":
            self.hub.branches.setdefault(revision, self.hub.branches["main"])
            self._json({})
        else:
            digest = self.hub.resolved(revision)
            files = self.hub.commits[digest]
            tree = [{"type": "file", "path": p, "size": len(d), "oid": _oid(d)} for p, d in sorted(files.items())]
            about = {"id": "acme/toy", "sha": digest, "siblings": [{"rfilename": path} for path in files]}
            self._json(tree if action == "tree" else about)

    do_GET = do_HEAD = do_POST = _handle


@contextlib.contextmanager
def running() -> Iterator[tuple[str, Hub]]:
    """The address of a hub, host and port, and its content."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()
