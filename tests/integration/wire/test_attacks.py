"""Hostile clients (`attacks`) next to an unaffected client: many requests at once, compression bombs, resets,
idle connections."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from tests.integration.wire.test_memory_bounds import resident
from tests.support import attacks, toy_model
from tests.support.server_process import Beside, Server, serving, wait_until

HELD = {"asgi": 96, "grpcio": 256}  # MiB that an attack may cost
SLOW = 1.0  # seconds that the other client may wait for most responses
BUSY = 20  # times what it waits without an attack, on a machine that needs longer than SLOW


@pytest.fixture(scope="module", params=["asgi", "grpcio"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "asgi":
        pytest.importorskip("h2corn")
    root = tmp_path_factory.mktemp("attacked")
    toy_model.write(root)
    with serving(root, transport=request.param, request_read_timeout=30.0, handshake_timeout=30.0) as running:
        yield running


def answers(server: Server) -> bool:
    try:
        return server.infer(np.zeros((1, 3), np.float32)).shape == (1, 2)
    except grpc.RpcError:
        return False


@pytest.mark.parametrize("attack", attacks.NAMES)
def test_an_attack_is_not_noticed_by_others(server: Server, attack: str, request: pytest.FixtureRequest) -> None:
    wait_until(lambda: answers(server))
    before = resident(server)
    beside = Beside(server)
    beside.start()
    subprocess.run([sys.executable, "-m", "tests.support.attacks", attack, str(server.port)], timeout=240, check=True)
    beside.end()
    assert server.process.poll() is None
    transport = "asgi" if '"asgi"' in str(server.process.args) else "grpcio"
    if (transport, attack) == ("grpcio", "continuations"):
        request.node.add_marker(pytest.mark.stalls(1.5, "gRPC core hands over half a million headers in one call"))
    assert resident(server) < before + HELD[transport]
    if transport == "asgi":  # gRPC core reads a flood to its end, and others wait, or are cancelled
        assert not beside.errors
        assert usual(beside) < SLOW or usual(beside) < BUSY * alone(server)


def usual(client: Beside) -> float:
    """Seconds that most calls took, without the slowest one: the machine may stop for a moment."""
    kept = sorted(client.seconds)[:-1]
    return kept[int(0.9 * len(kept))] if kept else 0.0


def alone(server: Server) -> float:
    """The same without an attack, on this machine at this time."""
    wait_until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())
    client = Beside(server)
    client.start()
    time.sleep(1)
    client.end()
    return usual(client)


def test_it_goes_on_after_all(server: Server) -> None:
    wait_until(lambda: answers(server))
    wait_until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())
