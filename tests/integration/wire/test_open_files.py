"""File descriptor exhaustion: open connections work, new ones wait or connect later, and one log line reports it."""

import contextlib
import itertools
import resource
import socket
import urllib.error
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support import toy_model
from tests.support.server_process import Server, serving
from tests.support.tiers import full
from tests.support.wait import until

ROWS = np.zeros((1, 3), np.float32)
FILES = 96
QUIET = 4.9  # seconds at least between two lines about lost connections


@contextlib.contextmanager
def crowd(port: int, count: int = 300) -> Iterator[list[socket.socket]]:
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
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30)
        except grpc.RpcError:
            return False
        return True


@pytest.mark.parametrize("transport", ["asgi", pytest.param("grpcio", marks=full("second transport"))])
def test_more_connections_than_files(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, files=FILES, transport=transport) as server:
        server.infer(ROWS)
        with crowd(server.port):
            for _ in range(50):
                server.infer(ROWS)
            assert server.metrics()
        until(lambda: newcomer(server))
        said = server.logged("connection_limit_reduced")
        assert [(line["max_connections"], line["taken"]) for line in said] == [(1000, FILES - 64)]
        assert server.stop() == 0


@full("load")
def test_files_that_run_out_all_the_same(tmp_path: Path) -> None:
    """As by others on the machine. Connections are lost; the port is kept, and taken up again."""
    pytest.importorskip("h2corn")
    toy_model.write(tmp_path)
    with serving(tmp_path, transport="asgi") as server:
        server.infer(ROWS)
        before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (40, before[1]))
        for _ in range(2):
            with crowd(server.port):
                assert server.logged("connections_not_accepted")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
        until(lambda: newcomer(server))
        assert server.infer(ROWS).shape == (1, 2)
        errors = [line for line in server.lines() if line["level"] == "error"]
        assert {line["event"] for line in errors} == {"connections_not_accepted"}
        times = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in errors]
        assert all(later - earlier >= QUIET for earlier, later in itertools.pairwise(times))
        assert server.stop() == 0


@full("load")
def test_the_metrics_port_takes_a_few(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path) as server:
        threads = Path(f"/proc/{server.process.pid}/task")
        before = len(list(threads.iterdir()))
        with crowd(server.metrics_port, 50):
            assert len(list(threads.iterdir())) <= before + 40  # 32 of the port, and some that start late
            until(lambda: scraped(server))
        assert scraped(server)


def scraped(server: Server) -> bool:
    try:
        return "kanserve_" in server.metrics()
    except (OSError, urllib.error.URLError):
        return False
