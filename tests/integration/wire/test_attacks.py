"""Hostile clients (`attacks`) next to an unaffected client: many requests at once, compression bombs, resets,
idle connections."""

import sys

import grpc
import numpy as np
import pytest

from tests.support import attacks, forked_process
from tests.support.http_client import served
from tests.support.server_process import SHARED, Beside, Server, resident
from tests.support.tiers import spread
from tests.support.wait import until

HELD = {"asgi": 96, "grpcio": 256}  # MiB that an attack may cost
SLOW = 1.0  # seconds that the other client may wait for most responses
BUSY = 20  # times what it waits without an attack, on a machine that needs longer than SLOW
CALLS = 30  # of the other client without an attack


server = served(SHARED, request_read_timeout=30.0, handshake_timeout=30.0)


def responses(server: Server) -> bool:
    try:
        return server.infer(np.zeros((1, 3), np.float32)).shape == (1, 2)
    except grpc.RpcError:
        return False


@spread("attack", attacks.NAMES, 2, "load")
def test_an_attack_is_not_noticed_by_others(server: Server, attack: str, request: pytest.FixtureRequest) -> None:
    idle(server)
    before = resident(server)
    beside = Beside(server)
    beside.start()
    command = [sys.executable, "-m", "tests.support.attacks", attack, str(server.port)]
    assert forked_process.run(command, input=b"", timeout=240).returncode == 0
    beside.end()
    assert server.process.poll() is None
    transport = "asgi" if '"asgi"' in str(server.process.args) else "grpcio"
    if transport == "grpcio" and attack in ("continuations", "hpack_bombs"):
        request.node.add_marker(pytest.mark.stalls(1.5, "gRPC core hands over half a million headers in one call"))
    assert resident(server) < before + HELD[transport]
    if transport == "asgi":  # gRPC core reads a flood to its end, and others wait, or are cancelled
        assert not beside.errors
        assert usual(beside) < SLOW or usual(beside) < BUSY * alone(server)
    idle(server)


def idle(server: Server) -> None:
    """Wait until the server responds, and has no request in flight."""
    until(lambda: responses(server))
    until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())


def usual(client: Beside) -> float:
    """Seconds that most calls took, without the slowest one: the machine may stop for a moment."""
    kept = sorted(client.seconds)[:-1]
    return kept[int(0.9 * len(kept))] if kept else 0.0


def alone(server: Server) -> float:
    """The same without an attack, on this machine at this time."""
    idle(server)
    client = Beside(server)
    client.start()
    until(lambda: len(client.seconds) >= CALLS)
    client.end()
    return usual(client)
