"""Log lines of third-party code have the server's format. A closed, full or stalled stderr loses only lines."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.observability import log_events
from kanserve.pb import grpc_service_pb2 as pb
from tests.kanserve.server.test_supervisor import value
from tests.support import http_client, toy_model
from tests.support.server_process import INFERENCE, START, request
from tests.support.tiers import full, spread
from tests.support.wait import until

DATA = request(np.zeros((1, 3), np.float32), id="x" * 100).SerializeToString()
DROPPED = "kanserve_log_lines_dropped_total"
WORDS = """
import asyncio, gc, logging, sys, threading, warnings
from kanserve.observability import logs
logs.configure("json", sys.argv[1])
logging.getLogger("some.library").warning("a library's %s", "line")
logging.getLogger("some.library").debug("not ours to print")
warnings.warn("old", DeprecationWarning)
print("printed", "words", file=sys.stderr)
sys.stderr.write("without an end")
def fail(): raise ValueError("of a thread")
thread = threading.Thread(target=fail, name="worker-7"); thread.start(); thread.join()
class Late:
    def __del__(self): raise ValueError("of a finaliser")
Late(); gc.collect()
async def main():
    loop = asyncio.get_running_loop()
    def called(): raise ValueError("of a callback")
    loop.call_soon(called)
    task = loop.create_task(asyncio.sleep(0)); await task
    async def bad(): raise ValueError("of a task")
    lost = loop.create_task(bad()); await asyncio.sleep(0.01); del lost; gc.collect()
asyncio.run(main())
sys.stderr.flush()
raise ValueError("of the program")
"""


def run(program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A program in a separate process, with its stderr captured unless `options` say otherwise."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, "-W", "default", "-c", program, *arguments], text=True, timeout=200, **options
    )


def words(level: str) -> list[dict[str, Any]]:
    done = run(WORDS, level)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_whoever_speaks_speaks_in_the_same_form() -> None:
    lines = words("info")
    assert all({"event", "message", "level", "timestamp", "component"} <= set(line) for line in lines)
    said = [(line["component"], line["level"], line.get("text", line["message"])) for line in lines]
    assert {
        ("some.library", "warning", "a library's line"),
        ("python", "warning", "old"),
        ("python", "warning", "printed words"),
        ("python", "warning", "without an end"),
        ("python", "error", log_events.EVENTS["unhandled_exception"].message),
    } <= set(said)
    traces = [line["exception"] for line in lines if "exception" in line]
    for origin in ("a thread", "a finaliser", "a callback", "a task", "the program"):
        assert sum(f"ValueError: of {origin}" in trace for trace in traces) == 1, origin
    assert any(line.get("thread") == "worker-7" for line in lines)
    assert any(
        line["component"] == "asyncio" and "Task exception was never retrieved" in line["message"] for line in lines
    )
    assert {line["event"] for line in lines} <= log_events.EVENTS.keys()


def test_the_level_holds_for_all_of_them() -> None:
    assert {line["level"] for line in words("error")} == {"error"}


LONG = """
import sys
from kanserve.observability import logs
logs.configure(sys.argv[1])
def fail(n):
    return fail(n - 1) if n else 1 / 0
try:
    fail(900)
except ZeroDivisionError as error:
    logs.get_logger("test").error("x" * 10**5, exc_info=error)
"""


@spread("form", ["json", "console"], 1)
def test_no_line_is_long(form: str) -> None:
    done = run(LONG, form)
    assert 1000 < len(done.stderr) < 2**17
    if form == "json":
        (line,) = map(json.loads, done.stderr.splitlines())
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("division by zero")
        assert max(map(len, line.values())) < 8300


FULL = """
import ctypes, faulthandler, logging, os, subprocess, sys, threading, warnings
from kanserve.observability import logs
from kanserve.server import watchdog
logs.configure("json", "info")
libc = ctypes.CDLL(None)
for _ in range(64):
    libc.write(2, b"x" * 8192, 8192)  # as a library does, without our log
print("full", flush=True)
log = logs.get_logger("test")
for _ in range(500):
    log.info("a line of ours", text="x" * 4096)
warnings.warn("Python's", UserWarning)
logging.getLogger("some.library").error("a library's")
print("printed", file=sys.stderr)
def fail(): raise ValueError("a traceback")
thread = threading.Thread(target=fail); thread.start(); thread.join()
faulthandler.dump_traceback(2)
child = "import os, contextlib\\nwith contextlib.suppress(OSError): os.write(2, b'x' * 9000)"
subprocess.run([sys.executable, "-c", child], timeout=60)
print(logs.dropped(), flush=True)
watchdog.end()
"""


@spread("kind", ["pipe", "terminal", "socket", "pipe without /proc"], 1)
def test_a_full_stderr_holds_nobody_who_writes_to_it(kind: str) -> None:
    """Writes of kanserve, Python, a C library and a child do not block without a reader. Inherited flags stay."""
    program = FULL
    if kind == "terminal":
        reader, writer = os.openpty()
    elif kind == "socket":
        reader, writer = (item.detach() for item in socket.socketpair())
    else:
        reader, writer = os.pipe()
    if "without" in kind:
        program = program.replace("logs.configure", "logs.os.open = lambda *a: os.stat('/none')\nlogs.configure", 1)
    try:
        done = run(program, stderr=writer)
        assert done.returncode == 70, done.stdout
        assert int(done.stdout.split()[1]) > 100
        assert os.get_blocking(writer)
    finally:
        os.close(reader)
        os.close(writer)


SOCKET = (
    b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@full("load")
@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
def test_upgrades_are_refused_and_fill_no_stderr(tmp_path: Path, transport: str) -> None:
    """An unauthenticated client sends many upgrades while stderr is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with started(tmp_path, "", writer, **http_client.way(transport)[1]) as (process, addresses):
        host, _, port = addresses["http"].rpartition(":")
        for at in range(200):
            with socket.create_connection((host, int(port)), timeout=60) as peer:
                peer.sendall(SOCKET)
                said = peer.recv(4096)
            assert at or said.startswith(b"HTTP/1.1 501 ")
            assert at or b"does not upgrade a connection" in said
        with grpc.insecure_channel(addresses["grpc"]) as channel:
            channel.unary_unary(f"{INFERENCE}ModelInfer")(DATA, timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def started(
    folder: Path, redirect: str, stderr: int | None = None, **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A server whose stderr is as the shell's `redirect` says."""
    toy_model.write(folder)
    options = {
        "repository": str(folder), "grpc_port": 0, "metrics_port": 0, "drain_delay_seconds": 0, "load_check": False,
        **settings,
    }  # fmt: skip
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", START, json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=stderr) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def page(addresses: dict[str, str]) -> str:
    with urllib.request.urlopen(f"http://{addresses['metrics']}/metrics", timeout=60) as response:
        return response.read().decode()


TAKES_NOTHING = [("2>/dev/full", 1, "asgi"), ("0<&- 2>&-", 2, "grpcio")]


@spread("redirect, workers, transport", TAKES_NOTHING, 1)
def test_a_stderr_that_takes_nothing_costs_lines_alone(
    tmp_path: Path, redirect: str, workers: int, transport: str
) -> None:
    settings = {"access_log": "all", "workers": workers, "threads": workers, **http_client.way(transport)[1]}
    with started(tmp_path, redirect, **settings) as (process, addresses):
        with grpc.insecure_channel(addresses["grpc"]) as channel:
            infer = channel.unary_unary(f"{INFERENCE}ModelInfer")
            for _ in range(200):
                response = pb.ModelInferResponse.FromString(infer(DATA, timeout=60))
                assert response.model_name == "toy"
            with pytest.raises(grpc.RpcError) as caught:
                infer(b"\xff\xff", timeout=60)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60) == b"\x08\x01"
        until(lambda: value(page(addresses), DROPPED) > 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
