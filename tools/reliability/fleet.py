"""Two servers behind HAProxy, each with a synchronized copy of a repository, and clients with retries.

The servers have TLS, a token file and load checks, as in production. The second has two workers and `ready_requires`.
`sync.sh` of the chart copies a folder that stands for a bucket. HAProxy checks gRPC by grpc.health.v1, and REST by
HTTP/1.0 on the metrics port.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from kanserve import Client
from kanserve.client import calls, sync
from kanserve.client.errors import ClientError
from kanserve.pb import grpc_service_pb2 as pb
from tests.support import attacks, programs, reload_tools, toy_model
from tests.support.command_line import CLEAN, COMMAND
from tests.support.credentials import bearer
from tests.support.server_process import INFERENCE, request
from tests.support.wait import until
from tools.manifests import download
from tools.reliability.base import NotRun
from tools.reliability.row_31_tls_rotation import Files

SYNC = Path(__file__).parents[2] / "service/deploy/helm/kanserve/files/sync.sh"
BATCH = np.linspace(-2, 2, 3 * toy_model.BATCH, dtype=np.float32).reshape(-1, 3)
PACE, WINDOW = 0.02, 4  # seconds between two calls of a client; batches that a scoring client has in flight
RETRIES = 8  # of each client, about 8 s: the default of 3 is shorter than an overload of some seconds
PAUSE, LONGEST = 0.1, 2.0  # seconds between two attempts of REST and streams: as the blocking client does it
AGE = 20  # seconds of a connection
PENDING = 16  # requests of a model in a server
FLAGS = (
    *("--credential-poll-seconds", "0.3", "--repository-poll-seconds", "0.5", "--inline-run-seconds", "0"),
    *("--max-connection-age-seconds", str(AGE), "--max-pending-requests", str(PENDING), "--threads", "1"),
    *("--drain-delay-seconds", "2", "--load-memory-bytes", str(2**30), "--log-format", "json"),
)


def factor(version: int) -> float:
    """The factor of the outputs of a version, a power of two, so that its outputs are exact."""
    return 2.0 ** (version % 16 - 8)


def spawned(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """A process in the folder of its log."""
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env={**CLEAN, **environment}, cwd=log.parent)


class Node:
    """A server and the synchronization of its folder of models."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.store, self.log, self.sync_log = (folder / f"{name}{end}" for end in ("", ".log", ".sync.log"))
        self.ports = programs.free_ports("grpc", "metrics")
        self.process = self.syncing = subprocess.Popen(["true"])  # until `start`
        self.process.wait()
        self.store.mkdir()

    @property
    def url(self) -> str:
        return f"grpcs://127.0.0.1:{self.ports['grpc']}"

    def start(self) -> None:
        """Start the server; see `ready`."""
        tls = ("--tls-cert", "server.pem", "--tls-key", "server.key", "--tokens", "tokens.toml")
        ports = ("--grpc-port", str(self.ports["grpc"]), "--metrics-port", str(self.ports["metrics"]))
        own = ("--workers", "2", "--ready-requires", "toy") if self.name == "b" else ()
        command = [*COMMAND, "serve", str(self.store), *ports, *tls, *own, *FLAGS]
        self.process = spawned(command, self.log, GRPC_VERBOSITY="NONE")

    def start_sync(self) -> None:
        """Start the synchronization, which the chart runs as a second container."""
        places = {"SYNC_REMOTE": str(self.folder / "remote"), "SYNC_FOLDER": str(self.store), "SYNC_SECONDS": "0.5"}
        try:
            path = f"{Path(download.program('rclone')).parent}:{os.environ['PATH']}"
        except download.Unavailable as error:
            raise NotRun(f"rclone cannot be downloaded: {error}") from error
        places |= {"PATH": path, "RCLONE_CONFIG": str(self.folder / "none.conf")}
        self.syncing = spawned(["/bin/sh", str(SYNC), "loop"], self.sync_log, **places)

    def http(self, path: str, request: str = "GET {} HTTP/1.0\r\n\r\n") -> tuple[int, str]:
        """Status and body of the metrics port, by HTTP/1.0; status 0 without a server."""
        try:
            with socket.create_connection(("127.0.0.1", self.ports["metrics"]), timeout=60) as peer:
                peer.sendall(request.format(path).encode())
                with peer.makefile("rb") as file:
                    head, _, body = file.read().partition(b"\r\n\r\n")
        except OSError:
            return 0, ""
        return int(head.split()[1]) if head else 0, body.decode()

    def listens(self) -> bool:
        """Whether a process listens on one of its ports."""
        for port in self.ports.values():
            with socket.socket() as peer:
                if peer.connect_ex(("127.0.0.1", port)) == 0:
                    return True
        return False

    def ready(self) -> bool:
        return self.http("/readyz")[0] == 200

    def metric(self, name: str) -> float:
        return reload_tools.sample(self.http("/metrics")[1], name)

    def events(self) -> list[dict[str, Any]]:
        """The log so far."""
        lines = self.log.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the server and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def stop_sync(self) -> None:
        self.syncing.terminate()
        self.syncing.wait(60)


def health_check() -> str:
    """A call of grpc.health.v1.Health/Check as HTTP/2, in hexadecimal."""

    def literal(index: int, value: bytes) -> bytes:
        return bytes([index] if index < 15 else [15, index - 15]) + bytes([len(value)]) + value

    headers = b"\x83\x87" + literal(4, b"/grpc.health.v1.Health/Check") + literal(1, b"localhost")
    headers += literal(31, b"application/grpc") + b"\x00\x02te\x08trailers"
    frames = attacks.frame(attacks.SETTINGS, 0, 0, b"") + attacks.frame(1, 4, 1, headers)
    return (attacks.PREFACE + frames + attacks.frame(0, 1, 1, bytes(5))).hex()


CONFIGURATION = """global
    stats socket {folder}/admin mode 600 level admin expose-fd listeners
    hard-stop-after 20s
defaults
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout check 3s
    retries 3
    option redispatch 1
    default-server inter 500ms fastinter 100ms downinter 200ms fall 2 rise 1
    default-server observe layer4 error-limit 3 on-error mark-down
frontend grpc
    mode tcp
    bind 127.0.0.1:{grpc}
    default_backend grpc
backend grpc
    mode tcp
    balance leastconn
    option tcp-check
    tcp-check connect ssl alpn h2
    tcp-check send-binary {check}
    tcp-check expect binary 00000000020801
    {grpc_servers}
frontend rest
    mode http
    bind 127.0.0.1:{rest}
    default_backend rest
backend rest
    mode http
    balance roundrobin
    option httpchk GET /readyz
    {rest_servers}
"""


class Fleet:
    """A running fleet in a folder. `versions`: those of the model `toy` in the bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.remote, self.files = folder, folder / "remote", Files(folder)
        self.versions: list[int] = []
        self.next_version = 1
        for _ in range(3):
            self.publish()
        self.token = self.new_token("clients", "infer,interpret")
        self.nodes = [Node(folder, "a"), Node(folder, "b")]
        self.ports = programs.free_ports("grpc", "rest")
        self.haproxy = self._start_haproxy()

    def _start_haproxy(self) -> subprocess.Popen[bytes]:
        tls = f"ssl verify required ca-file {self.folder}/ca.pem verifyhost localhost"
        servers = [(node.name, node.ports["grpc"], node.ports["metrics"]) for node in self.nodes]
        text = CONFIGURATION.format(
            folder=self.folder,
            **self.ports,
            check=health_check(),
            grpc_servers="\n    ".join(f"server {n} 127.0.0.1:{g} check verify none" for n, g, _ in servers),
            rest_servers="\n    ".join(
                f"server {n} 127.0.0.1:{g} {tls} check port {m} no-check-ssl" for n, g, m in servers
            ),
        )
        (self.folder / "haproxy.cfg").write_text(text)
        try:
            return spawned(["haproxy", "-W", "-f", "haproxy.cfg"], self.folder / "haproxy.log")
        except FileNotFoundError:
            raise NotRun("HAProxy is not installed") from None

    def publish(self, damage: Any = None) -> int:
        """Put a version into the bucket in one step; its number. `damage(folder)` changes its files before."""
        version, self.next_version = self.next_version, self.next_version + 1
        hidden = reload_tools.write(self.folder / f"new-{version}", factor(version), version=version)
        if damage is None:
            self.versions.append(version)
        else:
            damage(hidden)
        (self.remote / "toy").mkdir(parents=True, exist_ok=True)
        hidden.rename(self.remote / "toy" / str(version))
        return version

    def withdraw(self, version: int) -> None:
        """Take a version out of the bucket."""
        (self.remote / "toy" / str(version)).rename(self.folder / f"removed-{version}")

    def kanserve(self, *arguments: object, fails: bool = False, **environment: str) -> str:
        """The output of a command, which succeeds."""
        command, own = [*COMMAND, *map(str, arguments)], {**CLEAN, "KANSERVE_CA": str(self.files.folder / "ca.pem")}
        done = subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, timeout=120)
        assert fails or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def new_token(self, name: str, roles: str) -> str:
        tokens, output = self.folder / "tokens.toml", self.folder / f"{name}.token"
        self.kanserve("token", "new", name, "--roles", roles, "--tokens", tokens, "--output", output, "--force")
        return output.read_text().strip()

    def client(self, node: Node | None = None, kind: Any = Client, **options: Any) -> Client:
        """A client of HAProxy, or of one server."""
        url = f"grpcs://127.0.0.1:{self.ports['grpc']}" if node is None else node.url
        made: Client = kind(url, **{"ca": self.folder / "ca.pem", "token": self.token, **options})
        return made

    def options(self, node: Node) -> tuple[str, ...]:
        """The options of a command for one server."""
        return ("--url", node.url, "--token-file", str(self.folder / "clients.token"))

    def served(self, node: Node, version: int | str = "") -> tuple[int, str]:
        """Version and error of one call without a retry to one server."""
        try:
            with self.client(node, retries=0) as client:
                answer = client.infer(client.model("toy"), reload_tools.ROWS, version=version)
        except ClientError as error:
            return 0, str(error)
        return int(answer.version), ""

    def _told(self, command: str) -> str:
        """The response of HAProxy to a command; empty if it does not respond."""
        try:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(60)
                peer.connect(str(self.folder / "admin"))
                peer.sendall(f"{command}\n".encode())
                with peer.makefile() as file:
                    return file.read()
        except OSError:
            return ""

    def haproxy_worker(self) -> int:
        """The process that handles new connections."""
        return int(next((line.split()[1] for line in self._told("show info").splitlines() if "Pid:" in line), 0))

    def sessions(self) -> int:
        """Connections of gRPC so far, of the present process."""
        return sum(int(row["stot"]) for (backend, _), row in self.table().items() if backend == "grpc")

    def table(self) -> dict[tuple[str, str], dict[str, str]]:
        """HAProxy's state of each server of each backend."""
        rows = csv.DictReader(self._told("show stat").lstrip("# ").splitlines())
        return {(row["pxname"], row["svname"]): row for row in rows if row["svname"] in ("a", "b")}

    def in_turn(self, *nodes: Node) -> bool:
        """Whether HAProxy sends calls to exactly these servers."""
        table, names = self.table(), {node.name for node in nodes}
        return bool(table) and all((row["status"] == "UP") == (name in names) for (_, name), row in table.items())

    def stop(self) -> None:
        """End all processes."""
        self.haproxy.terminate()
        for node in self.nodes:
            for process in (node.syncing, node.process):
                process.terminate()
        for process in (self.haproxy, *(process for node in self.nodes for process in (node.syncing, node.process))):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(60)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Fleet]:
    """A fleet whose servers are ready."""
    fleet = Fleet(folder)
    try:
        for node in fleet.nodes:
            node.start_sync()
            node.start()
        until(lambda: all(node.ready() for node in fleet.nodes) and fleet.in_turn(*fleet.nodes))
        yield fleet
    finally:
        fleet.stop()


class Counted(Client):
    """A client whose last budget of retries can be read."""

    def _attempts(self, call: Any) -> Any:
        self.last = super()._attempts(call)
        return self.last


def expected(rows: np.ndarray) -> np.ndarray:
    """The outputs of factor 1, by the same runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(toy_model.graph(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(["y"], {"x": rows})[0]
    return result


class Load(threading.Thread):
    """One client of one kind, which sends a call after the other. `samples`: end, seconds, retries, and whether it went
    well. `errors`: texts of lost calls, and of wrong outputs."""

    def __init__(self, fleet: Fleet, kind: str) -> None:
        super().__init__(daemon=True)
        self.fleet, self.kind, self.ended = fleet, kind, threading.Event()
        self.samples: list[tuple[float, float, int, bool]] = []
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.rows = BATCH if kind == "score" else reload_tools.ROWS
        self._base, self._retried = expected(self.rows), 0

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            ask = {"grpc": self._unary, "rest": self._rest, "stream": self._stream, "score": self._score}
            one = stack.enter_context(contextlib.closing(ask[self.kind]()))
            while not self.ended.wait(PACE):
                begun = time.monotonic()
                version, values = next(one)
                now = time.monotonic()
                if version and not np.array_equal(values, self._base * np.float32(factor(version))):
                    self.wrong.append(f"{self.kind}: version {version}: {values}")
                self.samples.append((now, now - begun, self._retried, bool(version)))

    def _failed(self, error: object) -> tuple[int, Any]:
        self.lost.append(f"{time.strftime('%H:%M:%S')} {self.kind}: {error}")
        print(self.lost[-1], flush=True)
        return 0, None

    def _unary(self) -> Iterator[tuple[int, Any]]:
        """The blocking client."""
        client: Any = self.fleet.client(kind=Counted, retries=RETRIES)
        with client:
            served = client.model("toy")
            while True:
                try:
                    answer = client.infer(served, self.rows)
                    result = int(answer.version), answer.outputs["y"]
                except ClientError as error:
                    result = self._failed(error)
                self._retried = client.last._made
                yield result

    def _score(self) -> Iterator[tuple[int, Any]]:
        """As `kanserve score`: several batches in flight on one connection."""
        client: Any = self.fleet.client(kind=Counted, retries=RETRIES)
        with client:
            served = client.model("toy")
            pending = []
            while True:
                while len(pending) < WINDOW:
                    begun = sync.Pending(client, calls.inference(served, self.rows))
                    pending.append((begun, client.last))
                first, attempts = pending.pop(0)
                try:
                    answer = first.result()
                    result = int(answer.version), answer.outputs["y"]
                except ClientError as error:
                    result = self._failed(error)
                self._retried = attempts._made
                yield result

    def _rest(self) -> Iterator[tuple[int, Any]]:
        tensor = {"name": "x", "datatype": "FP32", "shape": list(self.rows.shape), "data": self.rows.ravel().tolist()}
        body = json.dumps({"inputs": [tensor]})
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.fleet.token}"}

        def once() -> tuple[int, Any]:
            peer = http.client.HTTPConnection("127.0.0.1", self.fleet.ports["rest"], timeout=60)
            with contextlib.closing(peer):
                peer.request("POST", "/v2/models/toy/infer", body, headers)
                answer = peer.getresponse()
                text = answer.read()
                if answer.status != 200:
                    raise OSError(f"{answer.status} {text.decode()[:200]}", answer.status)
                document = json.loads(text)
                output = next(item for item in document["outputs"] if item["name"] == "y")
                return int(document["model_version"]), np.array(output["data"], np.float32).reshape(-1, 2)

        while True:
            yield self._again(once, lambda error: error.args[1:] in ((), (429,), (502,), (503,), (504,)))

    def _stream(self) -> Iterator[tuple[int, Any]]:
        """A stream that the client opens again after its end, and then sends the request again."""
        credentials = grpc.ssl_channel_credentials((self.fleet.folder / "ca.pem").read_bytes())
        again = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        channel = grpc.secure_channel(f"127.0.0.1:{self.fleet.ports['grpc']}", credentials)
        call: Any = None
        step = threading.Semaphore(0)

        def requests() -> Iterator[bytes]:
            data = request(self.rows).SerializeToString()
            while not self.ended.is_set():
                step.acquire(timeout=60)
                yield data

        def once() -> tuple[int, Any]:
            nonlocal call, step
            if call is None:
                step = threading.Semaphore(0)
                call = channel.stream_stream(f"{INFERENCE}ModelStreamInfer")(
                    requests(), metadata=bearer(self.fleet.token)
                )
            step.release()
            try:
                message = pb.ModelStreamInferResponse.FromString(next(call))
            except StopIteration:
                call = None
                raise OSError("the stream ended") from None
            except grpc.RpcError as error:
                call = None
                raise OSError(f"{error.code()} {error.details()}", *([] if error.code() in again else [1])) from None
            if message.error_message:
                raise OSError(message.error_message)
            answer = message.infer_response
            at = next(at for at, output in enumerate(answer.outputs) if output.name == "y")
            return int(answer.model_version), np.frombuffer(answer.raw_output_contents[at], "<f4").reshape(-1, 2)

        with channel:
            while True:
                yield self._again(once, lambda error: len(error.args) < 2)

    def _again(self, once: Any, temporary: Any) -> tuple[int, Any]:
        """A call with retries."""
        for self._retried in range(RETRIES + 1):
            try:
                return once()  # type: ignore[no-any-return]  # a version and outputs
            except (OSError, http.client.HTTPException) as error:
                last = error
                if isinstance(error, OSError) and not isinstance(error, ConnectionError) and not temporary(error):
                    break
            if self._retried < RETRIES:
                self.ended.wait(min(PAUSE * 2**self._retried, LONGEST))  # the last call of a client has its retries too
        return self._failed(last)
