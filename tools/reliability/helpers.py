"""Helpers for reliability tests: a server of the toy model, its memory use, and a concurrent client's results."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np

from tests.support import toy_model
from tests.support.server_process import Beside, Server, serving
from tests.support.wait import until

ROWS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
SUCCESS = 'nv_inference_request_success{model="toy",version="1"}'


@contextlib.contextmanager
def toys(transport: str, files: int = 0, **settings: object) -> Iterator[Server]:
    """A server of `toy` over one transport, which writes no lines of calls."""
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        with serving(Path(folder), files=files, transport=transport, **{"access_log": "none", **settings}) as server:
            yield server


def mib(server: Server, what: str = "VmRSS") -> float:
    """Memory of the server's process; VmHWM: its peak."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(what)).split()[1]) / 1024


def sample(server: Server, name: str) -> float:
    """A number of the server's metrics."""
    return float(next(line for line in server.metrics().splitlines() if line.startswith(f"{name} ")).split()[-1])


def milliseconds(seconds: Sequence[float], share: float = 0.99) -> float:
    """A percentile."""
    return round(float(np.quantile(seconds, share)) * 1e3, 2) if seconds else float("nan")


@contextlib.contextmanager
def company(server: Server, count: int = 1) -> Iterator[list[Beside]]:
    """Clients that send valid requests during the block."""
    clients = [Beside(server) for _ in range(count)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.end()


def attack(server: Server, name: str, seconds: float = 1.0, argument: str = "") -> None:
    """One of `tests.support.attacks`, in a separate process."""
    code = f"from tests.support import attacks as a; a.SECONDS = {seconds}; a.{name}({server.port}{argument})"
    subprocess.run([sys.executable, "-c", code], timeout=seconds + 120, check=True)


def answers(server: Server) -> bool:
    """Whether a call goes well, which is right."""
    try:
        return bool(np.allclose(server.infer(ROWS), toy_model.outputs(ROWS), rtol=1e-4))
    except grpc.RpcError:
        return False


def settled(server: Server) -> None:
    """Until nothing is in flight and a call goes well."""
    until(lambda: answers(server) and sample(server, "kanserve_inflight_requests") == 0)
