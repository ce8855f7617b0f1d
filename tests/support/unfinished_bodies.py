"""Clients with unfinished requests over gRPC and HTTP/1. This command runs the whole attack and prints figures:

python -m tests.support.unfinished_bodies asgi grpc 400      (grpcio grpc 400, asgi http 900)
"""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import h2.events
import numpy as np

from tests.integration.wire.test_memory_bounds import highest, resident
from tests.support import toy_model
from tests.support.http_peer import Peer
from tests.support.server_process import INFERENCE, Server, request, serving

BODY = 4 * 2**20 - 1000  # bytes that each body announces
FRAME = 16384
STREAMS = 100  # bodies on one connection of gRPC
SECONDS = 12.0  # duration of the whole attack
Ends = Counter[str]


class Caller(threading.Thread):
    """One connection. `ends` counts the statuses of rejected requests."""

    def __init__(self, port: int, streams: int, size: int, ends: Ends, leave: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port, self._streams, self._size, self._ends, self._leave = port, streams, size, ends, leave

    def run(self) -> None:
        with contextlib.suppress(OSError):
            self.attack()

    def attack(self) -> None:
        raise NotImplementedError


class ByGrpc(Caller):
    """`streams` bodies on a connection, `size` bytes of each, as far as the windows of the server allow."""

    def attack(self) -> None:
        peer = Peer(self._port)
        with peer.socket:
            head = b"\0" + BODY.to_bytes(4, "big")
            self._left = {peer.open(): memoryview(head + bytes(self._size - len(head))) for _ in range(self._streams)}
            while not self._leave.is_set():
                moved = False
                for stream in list(self._left):
                    moved |= self._send(peer, stream)
                self._read(peer, 0.001 if moved else 0.1)

    def _send(self, peer: Peer, stream: int) -> bool:
        data = self._left[stream]
        size = min(len(data), FRAME, peer.state.local_flow_control_window(stream))
        if size > 0:
            peer.send(stream, bytes(data[:size]), end=False)
            self._left[stream] = data[size:]
        return size > 0

    def _read(self, peer: Peer, seconds: float) -> None:
        peer.socket.settimeout(seconds)
        try:
            data = peer.socket.recv(2**20)
        except TimeoutError:
            return
        finally:
            peer.socket.settimeout(30)
        if not data:
            raise OSError("closed")
        for event in peer.state.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self._ends.update(value for name, value in event.headers if name == "grpc-status")
            if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self._left.pop(event.stream_id, None)
        peer.flush()


class ByHttp(Caller):
    """One body of HTTP/1."""

    def attack(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as peer:
            head = f"POST /v2/models/toy/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n"
            peer.sendall(head.encode() + bytes(self._size))
            peer.settimeout(0.1)
            while not self._leave.is_set():
                with contextlib.suppress(TimeoutError):
                    result = peer.recv(65536)
                    if not result:
                        return
                    self._ends[result.split(b" ")[1].decode()] += 1


@contextlib.contextmanager
def callers(server: Server, kind: str, connections: int, streams: int, size: int) -> Iterator[Ends]:
    """Clients that keep bodies unfinished until the context ends."""
    ends, leave = Ends(), threading.Event()
    port = server.port if kind == "grpc" else int((server.http or server.address).rpartition(":")[2])
    created = [(ByGrpc if kind == "grpc" else ByHttp)(port, streams, size, ends, leave) for _ in range(connections)]
    for item in created:
        item.start()
    try:
        yield ends
    finally:
        leave.set()
        for item in created:
            item.join(60)


def answers(server: Server) -> bool:
    """Whether the server responds to a small request within five seconds."""
    try:
        server.call(f"{INFERENCE}ModelInfer", request(np.zeros((1, 3), np.float32)).SerializeToString(), timeout=5)
    except grpc.RpcError:
        return False
    return True


def main(transport: str, kind: str, count: int) -> None:
    """Run the attack, and a normal client next to it."""
    connections, streams = (count // STREAMS, STREAMS) if kind == "grpc" else (count, 1)
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        with serving(Path(folder), transport=transport, access_log="none") as server:
            seconds, failed = [], 0
            assert answers(server)
            before = resident(server)
            with callers(server, kind, connections, streams, BODY - 1) as ends:
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    begun = time.monotonic()
                    failed += not answers(server)
                    seconds.append(time.monotonic() - begun)
                    time.sleep(0.1)
                print(f"{transport} {kind} {count}: RSS {before} MiB, peak {highest(server)}, refused {dict(ends)}")
            print(
                f"another caller: {len(seconds)} calls, {failed} failed, "
                f"p50 {np.median(seconds):.3f} s, max {max(seconds):.3f} s"
            )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
