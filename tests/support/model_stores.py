"""Stores and hubs of models on loopback, a name with addresses that a test changes, and a guide with its server."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support import compose_stack, programs, reload_tools, server_process
from tests.support.compose_stack import until
from tests.support.programs import Relay, free_port, free_ports
from tests.support.server_process import Server

KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "of-this-test"}


@contextlib.contextmanager
def started(command: list[Any], folder: Path, **environment: str) -> Iterator[None]:
    """A process with its output in a log, which ends with the context."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, cwd=folder, env=os.environ | environment
        )
    try:
        yield
    finally:
        process.kill()  # it keeps nothing, and SeaweedFS takes half a minute to end
        process.wait()


def wait_for(url: str) -> None:
    """Wait until an address responds, if only with an error of HTTP."""

    def responds() -> bool:
        try:
            urllib.request.urlopen(url, timeout=30).close()
        except urllib.error.HTTPError:
            return True
        return True

    compose_stack.until(responds, url)


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """SeaweedFS as an S3 server that requires credentials. The variables with which clients reach it."""
    weed = programs.program("weed")
    names = ("master", "volume", "filer", "s3")
    ports = free_ports(*names, *(f"{name} grpc" for name in names))
    options = [f"-{name}.port={ports[name]}" for name in names]
    options += [f"-{name}.port.grpc={ports[f'{name} grpc']}" for name in names]
    keys = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    identities = [{"name": "reader", "credentials": keys, "actions": ["Admin", "Read", "List", "Write"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    listen = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir", folder / "data", "-s3", f"-s3.config={folder / 's3.json'}"]
    # Services with fixed ports are off, so that two tests can run at the same time.
    others = ["-s3.port.lance=0", "-s3.port.iceberg=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64"]
    url = f"http://127.0.0.1:{ports['s3']}"
    with started([weed, "server", *listen, *options, *others], folder):
        wait_for(url)
        yield KEYS | {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """The address of an OCI registry, docker-registry, over plain HTTP."""
    program = compose_stack.program("docker-registry")
    address = f"127.0.0.1:{free_port()}"
    config = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(folder / "store")}}}
    (folder / "config.yml").write_text(yaml.safe_dump(config | {"http": {"addr": address}}))
    with started([program, "serve", folder / "config.yml"], folder):
        wait_for(f"http://{address}/v2/")
        yield address


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


NAME = "replicas.test"
A, IN, TTL = 1, 1, 1
HEAD = struct.Struct(">6H")  # id, flags, and the counts of questions, records, authorities, additional records
SERVED = 0x8580  # response, authoritative, recursion as requested, no error
POINTER = 0xC00C  # to the name of the question


@dataclass(slots=True)
class NameServer:
    """Running server. `addresses`: IPv4 addresses of NAME. `asked`: number of requests for them."""

    port: int
    addresses: list[str] = field(default_factory=list)
    asked: int = 0

    def target(self, port: int) -> str:
        """The address for a client, with this server as its resolver."""
        return f"dns://127.0.0.1:{self.port}/{NAME}:{port}"


@contextlib.contextmanager
def resolving(*addresses: str) -> Iterator[NameServer]:
    """A name server that first has these addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        names = NameServer(listener.getsockname()[1], list(addresses))
        thread = threading.Thread(target=_response, args=(listener, names), daemon=True)
        thread.start()
        try:
            yield names
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", listener.getsockname())
            thread.join(60)


def _response(listener: socket.socket, names: NameServer) -> None:
    while True:
        query, client = listener.recvfrom(512)
        if not query:
            return
        end = query.index(0, HEAD.size) + 5  # of the question: name, type, class
        question, (kind,) = query[HEAD.size : end], struct.unpack(">H", query[end - 4 : end - 2])
        found = list(names.addresses) if kind == A else []
        names.asked += kind == A
        records = b"".join(struct.pack(">3HIH", POINTER, A, IN, TTL, 4) + socket.inet_aton(each) for each in found)
        head = HEAD.pack(int.from_bytes(query[:2], "big"), SERVED, 1, len(found), 0, 0)
        listener.sendto(head + question + records, client)


ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides" / "models"
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^( *)```(?:console|py)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SECONDS = 180
PAD = 3 * 2**20  # bytes that make a graph large enough to stop its copy halfway
HALF = 2**20  # bytes of responses after which a relay stops
RELAY = "RELAY"  # its port, in commands and variables of `Desk.stalled`


def commands(page: str, **counts: int) -> dict[str, list[str]]:
    """The blocks of commands of a guide by section, without their indentation. `counts`: the blocks that a test runs,
    by the first word of their section. Another number fails."""
    titles = SECTION.split((GUIDES / page).read_text())
    texts = dict(zip(titles[1::2], titles[2::2], strict=True))
    found = {
        title: [re.sub(rf"(?m)^{indent}", "", block) for indent, block in BLOCK.findall(text)]
        for title, text in texts.items()
    }
    found = {title: blocks for title, blocks in found.items() if blocks}
    assert {title.partition(" ")[0]: 0 for title in found}.keys() == counts.keys(), f"{page}: {list(found)}"
    for word, count in counts.items():
        blocks = [block for title, own in found.items() if title.partition(" ")[0] == word for block in own]
        assert len(blocks) == count, f"{page}: {len(blocks)} blocks below {word!r}"
    return found


@dataclass(slots=True)
class Desk:
    """A folder with the repository `models` of a live server. `replaced`: texts of a guide, and their values here."""

    folder: Path
    server: Server
    environment: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> Path:
        """The repository of the server."""
        return self.folder / "models"

    def local(self, block: str) -> str:
        """A block with the addresses of this test."""
        for text, here in self.replaced.items():
            block = block.replace(text, here)
        return block

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of commands."""
        path = f"{self.folder / 'bin'}{os.pathsep}{self.environment.get('PATH', os.environ['PATH'])}"
        return os.environ | {"KANSERVE_URL": self.server.address} | self.environment | {"PATH": path} | more

    def run(self, block: str, **more: str) -> str:
        """Run a block of commands in the folder. Returns its output."""
        command = ["bash", "-ec", self.local(block)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.variables(**more), capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def killed(self, block: str, halfway: Callable[[], object], **more: str) -> None:
        """Start a block of commands, and kill it with its children when it is halfway."""
        command = ["bash", "-ec", self.local(block)]
        with (self.folder / "killed.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.variables(**more), stdout=log, stderr=log, start_new_session=True
            )
        try:
            until(halfway, f"a copy that is halfway: {block}", SECONDS)
            assert process.poll() is None, (self.folder / "killed.log").read_text()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stalled(self, block: str, server: str, partial: str = "", **more: str) -> None:
        """Run a block through a relay that stops halfway, and kill it. `server`: the host and port that the relay
        reaches. `partial`: the pattern of a file in `models` that it then has. RELAY in the block and in the values of
        `more` is the relay's port."""
        with Relay(server, HALF) as relay:
            port = relay.address.rpartition(":")[2]
            redirected = {name: value.replace(RELAY, port) for name, value in more.items()}

            def halfway() -> bool:
                return relay.stopped.is_set() and (not partial or any(self.models.glob(partial)))

            self.killed(block.replace(RELAY, port), halfway, **redirected)

    def release(self, version: int, factor: float, pad: int = 0) -> Path:
        """Write a version to publish into the folder `release`. Returns its folder; see `reload_tools.write`."""
        folder = self.folder / "release" / "toy" / str(version)
        return reload_tools.write(folder, factor, version=version, pad=pad)

    def factor(self, version: str = "") -> float:
        """The factor of the content that serves; see `reload_tools`."""
        return reload_tools.factor(self.server, version=version)

    def state(self, version: int) -> str:
        """The state of a version; empty if the server does not know it."""
        return reload_tools.index(self.server).get(("toy", str(version)), ("", ""))[0]

    def serves(self, version: int, factor: float) -> None:
        """Wait until a version serves a content."""

        def served() -> bool:
            return self.state(version) == "READY" and self.factor(str(version)) == factor

        until(served, f"version {version} with factor {factor}: {reload_tools.index(self.server)}", 60)

    def scans(self, count: int = 3) -> None:
        """Wait for scans of the repository."""
        threading.Event().wait(count * POLL + 0.3)


POLL = 0.2  # seconds between two scans of the server


@contextlib.contextmanager
def desk(folder: Path, replaced: dict[str, str] | None = None, **environment: str) -> Iterator[Desk]:
    """A desk whose server serves version 1 of the model `toy` (factor 1)."""
    reload_tools.write(folder / "models" / "toy" / "1")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "bin").mkdir()
    program = folder / "bin" / "kanserve"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kanserve "$@"\n')
    program.chmod(0o755)
    with server_process.serving(folder / "models", repository_poll_seconds=POLL) as server:
        yield Desk(folder, server, environment, replaced or {})


def ignored(desk: Desk) -> list[str]:
    """The files that the server ignored in the version that it loaded last. The server writes its log with a delay."""
    lines = until(lambda: reload_tools.events(desk.server, "model_files_ignored"), "a line of the log", 60)
    return list(lines[-1]["files"])


class Load(reload_tools.Clients):
    """Clients while versions change. The end of the block fails if a call failed."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk.server, 2, {})

    @property
    def versions(self) -> set[int]:
        """The versions that have responded."""
        return {version for version, _ in list(self.seen)}

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        super().__exit__(kind, *rest)
        if kind is None:
            assert self.failed == []


def follow(desk: Desk, load: Load, publish: Callable[[int, float], object], fetch: str) -> None:
    """Publish the versions 2 and 3, and run a block that fetches each. Servers and clients follow at once."""
    for version, factor in ((2, 2.0), (3, 4.0)):
        publish(version, factor)
        desk.run(fetch)
        assert desk.factor() == factor
    until(lambda: 3 in load.versions, "a call of version 3", 60)


def survive(desk: Desk, interrupted: Callable[[], object], block: str, *, served: float, factor: float) -> None:
    """Interrupt a copy of version 2: the server goes on with the content of before. A block that copies again makes it
    serve the new content. `served`, `factor`: the factors before and after. No call fails."""
    ready = desk.state(2) == "READY"
    with Load(desk) as load:
        until(lambda: load.served, "a first response", 60)
        interrupted()
        desk.scans()
        assert (desk.state(2) == "READY", desk.factor()) == (ready, served)
        desk.run(block)
        desk.serves(2, factor)
