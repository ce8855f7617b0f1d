"""Server of a test in a separate process, raw calls to it, and fixtures of one with the toy models."""

import contextlib
import functools
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.auth import token_file
from kanserve.pb import grpc_service_pb2 as pb
from tests.support import forked_process, loop_stalls, toy_model, wait
from tests.support.tiers import full

INFERENCE = "/inference.GRPCInferenceService/"
KAN = "/kanserve.v1.KanService/"
START = """
import asyncio, json, os, signal, sys, threading, time
from kanserve.config import settings as config
from kanserve.observability import logs
from kanserve.runtime.ort import OrtSession
from kanserve.server import app, supervisor
logs.configure("json", "info")
settings = config.Settings(**json.loads(sys.argv[1]))
app.HELD = float(os.environ.pop("KANSERVE_TEST_HELD", app.HELD))
if len(sys.argv) > 2:
    plugin = getattr(__import__("importlib").import_module(sys.argv[2]), sys.argv[3])
    app.factory.build = lambda *parts: app.factory.Transports(plugin(*parts), None, both=True)
if hold := os.environ.pop("KANSERVE_TEST_HOLD", ""):
    compute = OrtSession.run
    def run(*arguments):
        while os.path.exists(hold):
            time.sleep(0.01)
        return compute(*arguments)
    OrtSession.run = run
started_by = os.getppid()
def end_with_it():
    while os.getppid() == started_by:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
def ready(addresses):
    if "KANSERVE_TEST_STALLS" in os.environ:
        from tests.support import loop_stalls
        loop_stalls.Turns(asyncio.get_running_loop(), os.environ.pop("KANSERVE_TEST_STALLS"))
    threading.Thread(target=end_with_it, daemon=True).start()  # whoever started it may be killed
    print(json.dumps(addresses), flush=True)
serve = supervisor.serve if settings.workers > 1 else app.serve
raise SystemExit(asyncio.run(serve(settings, ready)))
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `calls` use one channel. `http`: its HTTP address, if any. `stalls` of its event loop."""

    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    channel: grpc.Channel
    log: Path
    http: str = ""
    stalls: loop_stalls.Log | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def call(self, path: str, data: bytes, timeout: float = 60, **options: Any) -> bytes:
        """A unary call with bytes. Raises grpc.RpcError."""
        return self.channel.unary_unary(path)(data, timeout=timeout, **options)

    def infer(self, rows: np.ndarray, model: str = "toy", **fields: Any) -> np.ndarray:
        """ModelInfer of float32 rows; the first output."""
        response = pb.ModelInferResponse.FromString(
            self.call(f"{INFERENCE}ModelInfer", request(rows, model, **fields).SerializeToString())
        )
        return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as response:
            return response.read().decode()

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, without a line that the server is writing."""
        return [json.loads(line) for line in self.log.read_text().rpartition("\n")[0].splitlines()]

    def logged(self, *events: str, count: int = 1, **facts: Any) -> list[dict[str, Any]]:
        """The log lines of these events with these facts, once there are `count`. A thread of the server writes its
        log, so a line may come after the response of its call."""

        def found() -> list[dict[str, Any]]:
            named = (line for line in self.lines() if line["event"] in events)
            return [line for line in named if facts.items() <= line.items()]

        wait.until(lambda: len(found()) >= count)
        return found()

    def stop(self, *, seconds: float = 60) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def resident(server: Server, peak: bool = False) -> int:
    """MiB of the server's process, or those at its peak."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    field = "VmHWM" if peak else "VmRSS"
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1]) // 1024


def request(rows: np.ndarray, model: str = "toy", **fields: Any) -> pb.ModelInferRequest:
    """A raw request for float32 rows."""
    message = pb.ModelInferRequest(model_name=model, **fields)
    message.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    message.raw_input_contents.append(np.ascontiguousarray(rows, "<f4").tobytes())
    return message


class Beside(threading.Thread):
    """A well-behaved client that runs until `ended` is set."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server, self.ended = server, threading.Event()
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:
        rows = np.zeros((1, 3), np.float32)
        while not self.ended.wait(0.02):
            begun = time.monotonic()
            try:
                self.server.infer(rows)
            except grpc.RpcError as error:
                self.errors.append(str(error))
            self.seconds.append(time.monotonic() - begun)

    def end(self) -> None:
        self.ended.set()
        self.join(60)


@contextlib.contextmanager
def launched(
    repository: Path, plugin: tuple[str, ...] = (), files: int = 0, **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A server process and its log, ended by SIGKILL if a test leaves it running. `plugin`: module and
    class of another one than the product has; `files`: that it may have open."""
    options = {
        "repository": str(repository),
        "grpc_port": 0,
        "metrics_port": 0,
        "drain_delay_seconds": 0,
        "drain_grace_seconds": 10,
        "load_check": False,  # costs each server a process; tests of trials ask for it, and commands have it
        **settings,
    }
    with tempfile.TemporaryDirectory() as folder:
        log, turns = Path(folder, "log"), loop_stalls.Log(Path(folder, "stalls"))
        loop_stalls.OPEN.append(turns)
        with log.open("w") as errors:
            process = forked_process.popen(
                [*(limited(files) if files else ()), sys.executable, "-c", START, json.dumps(options), *plugin],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={
                    "GRPC_VERBOSITY": "NONE",  # as kanserve.cli.main has it
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "KANSERVE_TEST_STALLS": str(turns.path),
                },
            )
        with process:
            try:
                yield process, log
            finally:
                if MEASURED and process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
                    process.wait(wait.SECONDS)
                process.kill()
                turns.keep()


def limited(files: int) -> tuple[str, ...]:
    """Return a command prefix that limits the number of open files."""
    return ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")


MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ  # a killed server would lose what coverage has counted
READY_SECONDS = 120.0  # until a server that a test starts must be ready


def first_line(process: subprocess.Popen[Any], log: Path) -> str:
    """The first line on stdout, which a server prints if it is ready. Raises AssertionError with its log."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
    line = process.stdout.readline() if readable else ""
    assert line, f"the server {'ended' if readable else 'was not ready in time'}: {log.read_text()}"
    return line if isinstance(line, str) else line.decode()


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Context in which processes do nothing."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


SECURE = "asgi with TLS and tokens"


@functools.cache
def _secured() -> tuple[dict[str, str], grpc.ChannelCredentials]:
    """Settings of TLS and of a token with all roles, and the credentials of a client."""
    import trustme

    folder, authority, token = tempfile.TemporaryDirectory(prefix="secured"), trustme.CA(), token_file.make()
    _kept.append(folder)
    pair, paths = (
        authority.issue_cert("127.0.0.1"),
        {name: Path(folder.name, name) for name in ("cert", "key", "tokens")},
    )
    pair.cert_chain_pems[0].write_to_path(paths["cert"])
    pair.private_key_pem.write_to_path(paths["key"])
    roles = ["infer", "interpret", "admin"]
    paths["tokens"].touch(mode=0o600)
    paths["tokens"].write_text(f'[[token]]\nname = "all"\nroles = {roles}\nsha256 = "{token_file.digest(token)}"\n')
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(authority.cert_pem.bytes()), grpc.access_token_call_credentials(token)
    )
    settings = {"tls_cert": str(paths["cert"]), "tls_key": str(paths["key"]), "tokens": str(paths["tokens"])}
    return {"transport": "asgi", **settings}, credentials


_kept: list[Any] = []  # folders that last as long as the process


@contextlib.contextmanager
def serving(repository: Path, plugin: tuple[str, ...] = (), files: int = 0, **settings: Any) -> Iterator[Server]:
    """A server over `repository` that is ready for requests. With the transport SECURE, its `channel` uses TLS and a
    token."""
    secure = settings.get("transport") == SECURE
    if secure:
        settings |= _secured()[0]
    with launched(repository, plugin, files, **settings) as (process, log):
        where = json.loads(first_line(process, log))
        port, metrics_port = (int(where[name].rpartition(":")[2]) for name in ("grpc", "metrics"))
        address = f"127.0.0.1:{port}"
        with grpc.secure_channel(address, _secured()[1]) if secure else grpc.insecure_channel(address) as channel:
            yield Server(
                process,
                port,
                metrics_port,
                channel,
                log,
                where.get("http", ""),
                loop_stalls.Log(log.with_name("stalls")),
            )


@pytest.fixture
def hold(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: while it exists, no model runs in a server that the test starts. The test ends it by `unlink`."""
    path = tmp_path_factory.mktemp("hold") / "hold"
    path.touch()
    monkeypatch.setenv("KANSERVE_TEST_HOLD", str(path))
    return path


_NEEDS_H2CORN = pytest.mark.skipif(importlib.util.find_spec("h2corn") is None, reason="h2corn is not installed")
TRANSPORTS = (pytest.param("asgi", marks=_NEEDS_H2CORN), "grpcio")
# Of a suite whose behavior comes from code that both share.
SHARED = (TRANSPORTS[0], pytest.param("grpcio", marks=full("second transport")))


@pytest.fixture(autouse=True)
def _the_loop_turns(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test holds up the event loop of a server, unless `stalls(seconds, why)` marks the test."""
    loop_stalls.longest()
    yield
    result, marker = loop_stalls.longest(), request.node.get_closest_marker("stalls")
    most = loop_stalls.LIMIT if marker is None else marker.args[0]
    if result is not None and result.cpu > most:
        pytest.fail(f"the event loop of a server did not turn for {result.cpu:.2f} s of its own, at:\n{result.at}")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toy in versions 1 and 2, and toy64 with float64 tensors."""
    root = tmp_path_factory.mktemp("repository")
    toy_model.write(root, version=1)
    toy_model.write(root, version=2)
    toy_model.write(root, "toy64", datatype="FP64", tolerance=1e-12)
    return root


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    return str(request.param)


# The path that production uses; a test that speaks to the port by itself takes `server` with TRANSPORTS only.
SECURED = pytest.param(SECURE, marks=(_NEEDS_H2CORN, full("combination")))


@pytest.fixture(scope="session", params=(*TRANSPORTS, SECURED))
def server(repository: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server over `repository`, by each transport; tests leave it as it is."""
    # A test waits until a connection that never finishes its handshake is dropped.
    limits = {"max_response_bytes": 65536, "handshake_timeout": 3.0}
    with serving(repository, transport=request.param, **limits) as running:
        yield running
