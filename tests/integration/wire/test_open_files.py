"""File descriptor exhaustion: open connections work, new ones wait or connect later, and one log line reports it."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support import toy_model
from tests.support.server_process import Server, serving, wait_until

ROWS = np.zeros((1, 3), np.float32)
FILES = 96
QUIET = 5.0  # seconds without a lost connection until the next one has a line
CROWD = 300


@contextlib.contextmanager
def crowd(port: int, count: int = CROWD) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    peers: list[socket.socket] = []
    try:
        for _ in range(count):
            peers.append(socket.create_connection(("127.0.0.1", port), timeout=60))
        yield peers
    finally:
        for peer in peers:
            peer.close()


def newcomer(server: Server) -> bool:
    """Whether a client on a new connection gets a response."""
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
        except grpc.RpcError:
            return False
        return True


def test_more_connections_than_files(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, files=FILES, transport=transport) as server:
        server.infer(ROWS)
        with crowd(server.port):
            for _ in range(50):
                server.infer(ROWS)
            assert server.metrics()
        wait_until(lambda: newcomer(server))
        said = server.logged("connection_limit_reduced")
        assert [(line["max_connections"], line["taken"]) for line in said] == [(1000, FILES - 64)]
        assert server.stop() == 0


def test_files_that_run_out_all_the_same(tmp_path: Path) -> None:
    """As by others on the machine. Connections are lost; the port is kept, and taken up again."""
    pytest.importorskip("h2corn")
    toy_model.write(tmp_path)
    with serving(tmp_path, transport="asgi") as server:
        server.infer(ROWS)
        before, begun = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE), time.monotonic()
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (40, before[1]))
        with crowd(server.port):
            assert server.logged("connections_lost")
            time.sleep(1)  # and again
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
        wait_until(lambda: newcomer(server))
        assert server.infer(ROWS).shape == (1, 2)
        errors = [line["event"] for line in server.lines() if line["level"] == "error"]
        assert set(errors) == {"connections_lost"}
        assert len(errors) <= 1 + (time.monotonic() - begun) / QUIET
        assert server.stop() == 0


def test_the_metrics_port_takes_a_few(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, scrape_timeout=1.0) as server:
        threads = Path(f"/proc/{server.process.pid}/task")
        before = len(list(threads.iterdir()))
        with crowd(server.metrics_port, 50):
            assert len(list(threads.iterdir())) <= before + 32
            wait_until(lambda: scraped(server))
        assert scraped(server)


def scraped(server: Server) -> bool:
    try:
        return "kanserve_" in server.metrics()
    except (OSError, urllib.error.URLError):
        return False
