"""Connection settings, verified by their effect, because gRPC core ignores unknown options and h2corn has its own."""

import contextlib
import socket
from pathlib import Path

import grpc
import numpy as np

from tests.support import attacks, toy_model
from tests.support.server_process import Server, serving
from tests.support.wait import SECONDS, until

ROWS = np.zeros((1, 3), np.float32)
KEEPALIVE_TIMER = "02"  # in /proc/net/tcp


def comes(peer: socket.socket, kind: int) -> bool:
    """Whether a frame of this type comes before the other side closes."""
    data = b""
    peer.settimeout(SECONDS)
    with contextlib.suppress(OSError):
        while more := peer.recv(65536):
            data += more
            while len(data) >= 9:
                if data[3] == kind:
                    return True
                data = data[9 + int.from_bytes(data[:3], "big") :]
    return False


def own(server: Server) -> grpc.Channel:
    return grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])


def healthy(channel: grpc.Channel, timeout: float) -> bool:
    try:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=timeout)
    except grpc.RpcError:
        return False
    return True


def test_an_idle_connection_is_closed_in_words(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, max_connection_idle_seconds=0.5) as server:
        server.infer(ROWS)
        with attacks.connect(server.port) as peer:
            peer.sendall(attacks.frame(attacks.SETTINGS, 1, 0, b""))
            assert comes(peer, attacks.GOAWAY)
        assert server.infer(ROWS).shape == (1, 2)  # the client connects again


def test_no_more_connections_than_are_allowed(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, max_connections=3) as server:
        server.infer(ROWS)
        held = [own(server) for _ in range(2)]
        assert all(healthy(channel, 60) for channel in held)
        with own(server) as late:
            assert not healthy(late, 0.5)
            server.infer(ROWS)
            held[0].close()
            until(lambda: healthy(late, 60))
        held[1].close()


def test_a_silent_peer_is_asked_for_a_sign_of_life(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, keepalive_seconds=1.0) as server, attacks.connect(server.port) as peer:
        peer.sendall(attacks.frame(attacks.SETTINGS, 1, 0, b""))
        if transport == "grpcio":
            assert comes(peer, attacks.PING)
        else:
            until(lambda: timer(server.port, peer.getsockname()[1]) == KEEPALIVE_TIMER)


def timer(here: int, there: int) -> str:
    """Which timer runs on the server's side of a connection."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, running, *_ = line.split()
        if (local[-4:], remote[-4:]) == (f"{here:04X}", f"{there:04X}"):
            return running[:2]
    return ""
