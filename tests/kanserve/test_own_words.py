"""Every line that a server writes has one form, whoever says it; and a stderr that is closed, full or stalled costs
lines alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.pb import grpc_service_pb2 as pb
from tests.kanserve import toy
from tests.kanserve.running import INFERENCE, START, request, wait_until
from tests.kanserve.test_workers import value

DATA = request(np.zeros((1, 3), np.float32), id="x" * 100).SerializeToString()
DROPPED = "kanserve_log_lines_dropped_total"
WORDS = """
import asyncio, gc, logging, sys, threading, warnings
from kanserve.observe import logs
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


def words(level: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", WORDS, level], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_whoever_speaks_speaks_in_the_same_form() -> None:
    lines = words("info")
    assert all({"event", "level", "timestamp", "component"} <= set(line) for line in lines)
    said = [(line["component"], line["level"], line.get("text", line["event"])) for line in lines]
    assert ("some.library", "warning", "a library's line") in said
    assert ("python", "warning", "old") in said
    assert ("python", "warning", "printed words") in said
    assert ("python", "warning", "without an end") in said
    assert ("python", "error", "an exception that nobody took") in said
    traces = [line["exception"] for line in lines if "exception" in line]
    for origin in ("thread", "finaliser", "callback", "task", "program"):
        assert sum(f"ValueError: of a {origin}" in t or f"ValueError: of the {origin}" in t for t in traces) == 1, (
            origin
        )
    assert any(line.get("thread") == "worker-7" for line in lines)
    assert any(
        line["component"] == "asyncio" and "Task exception was never retrieved" in line["event"] for line in lines
    )


def test_the_level_holds_for_all_of_them() -> None:
    assert {line["level"] for line in words("error")} == {"error"}


@contextlib.contextmanager
def started(
    folder: Path, redirect: str, stderr: int | None = None, **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A server whose stderr is as the shell's `redirect` says."""
    toy.write(folder)
    options = {"repository": str(folder), "grpc_port": 0, "metrics_port": 0, "drain_delay": 0, **settings}
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", START, json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=stderr) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def page(addresses: dict[str, str]) -> str:
    with urllib.request.urlopen(f"http://{addresses['metrics']}/metrics", timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("redirect", "workers", "transport"),
    [
        ("2>/dev/full", 1, "asgi"),
        ("2>/dev/full", 1, "grpcio"),
        ("2>/dev/full", 2, "asgi"),
        ("0<&- 2>&-", 1, "asgi"),
    ],
)
def test_a_stderr_that_takes_nothing_costs_lines_alone(
    tmp_path: Path, redirect: str, workers: int, transport: str
) -> None:
    if transport == "asgi":
        pytest.importorskip("h2corn")
    settings = {"access_log": "all", "transport": transport, "workers": workers, "threads": workers}
    with started(tmp_path, redirect, **settings) as (process, addresses):
        with grpc.insecure_channel(addresses["grpc"]) as channel:
            infer = channel.unary_unary(f"{INFERENCE}ModelInfer")
            for _ in range(200):
                answer = pb.ModelInferResponse.FromString(infer(DATA, timeout=20))
                assert answer.model_name == "toy"
            with pytest.raises(grpc.RpcError) as caught:
                infer(b"\xff\xff", timeout=20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"
        wait_until(lambda: value(page(addresses), DROPPED) > 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_reader_that_leaves_costs_lines_alone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with started(tmp_path, "", writer, access_log="all") as (process, addresses):
        os.close(writer)
        os.close(reader)
        with grpc.insecure_channel(addresses["grpc"]) as channel:
            for _ in range(50):
                channel.unary_unary(f"{INFERENCE}ModelInfer")(DATA, timeout=20)
        wait_until(lambda: value(page(addresses), DROPPED) >= 50)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
