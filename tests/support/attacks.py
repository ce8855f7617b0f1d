"""Hostile clients in a separate process: raw bytes and unfinished requests."""

import contextlib
import gzip
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import numpy as np

from tests.support import toy_model
from tests.support.http_client import INFER, Peer
from tests.support.server_process import INFERENCE, Server, request, resident, serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
SECONDS = 1.0  # of a flood


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def connect(port: int) -> socket.socket:
    created = socket.create_connection(("127.0.0.1", port), timeout=60)
    created.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return created


def headers(more: list[tuple[str, str]] | None = None, path: str = INFER) -> bytes:
    """A block of gRPC's headers."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    usual = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
    return bytes(
        state.encoder.encode([*usual, ("content-type", "application/grpc"), ("te", "trailers"), *(more or [])])
    )


def rapid_resets(port: int) -> None:
    block = headers()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), connect(port) as peer:
            for stream in range(1, 2001, 2):
                peer.sendall(frame(HEADERS, 4, stream, block) + frame(RST, 0, stream, struct.pack(">I", 8)))


def continuations(port: int) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), connect(port) as peer:
            peer.sendall(frame(HEADERS, 0, 1, headers()))
            while time.monotonic() < end:
                peer.sendall(frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3000) * 8)


def hpack_bombs(port: int) -> None:
    """One large entry of the table, named over and over."""
    block = headers() + b"\x40\x01a" + b"\x7f" + bytes([3000 - 127 & 0x7F | 0x80, 3000 - 127 >> 7]) + b"x" * 3000
    for _ in range(20):
        with contextlib.suppress(OSError), connect(port) as peer:
            for stream in range(1, 100, 2):
                peer.sendall(frame(HEADERS, 4, stream, block + b"\xbe" * 10_000))


def half_prefaces(port: int) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(200):
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)).sendall(PREFACE[:10])
        time.sleep(SECONDS)


def bodiless(port: int) -> None:
    heads = b"".join(frame(HEADERS, 4, stream, headers()) for stream in range(1, 200, 2))
    with contextlib.ExitStack() as held:
        for _ in range(10):
            held.enter_context(connect(port)).sendall(heads)
        time.sleep(SECONDS)


def bombs(port: int) -> None:
    """300 MB in 300 kB."""
    packed = gzip.compress(bytes(300 * 2**20), 9)
    message = b"\x01" + struct.pack(">I", len(packed)) + packed
    for _ in range(5):
        with contextlib.suppress(OSError), connect(port) as peer:
            peer.sendall(frame(HEADERS, 4, 1, headers([("grpc-encoding", "gzip")])))
            for at in range(0, len(message), 16384):
                part = message[at : at + 16384]
                peer.sendall(frame(DATA, int(at + 16384 >= len(message)), 1, part))
            peer.recv(65536)


def flood(port: int, first: bytes, more: bytes) -> None:
    """The same frames over and over; what comes back is not read."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), connect(port) as peer:
            peer.settimeout(SECONDS)
            peer.sendall(first)
            while time.monotonic() < end:
                peer.sendall(more)


def pings(port: int) -> None:
    flood(port, b"", frame(PING, 0, 0, b"12345678") * 500)


def settings(port: int) -> None:
    flood(port, b"", frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 500)


def empty_frames(port: int) -> None:
    flood(port, frame(HEADERS, 4, 1, headers()), frame(DATA, 0, 1, b"") * 500)


def priorities(port: int) -> None:
    flood(port, b"", b"".join(frame(PRIORITY, 0, at, struct.pack(">IB", at - 2, 1)) for at in range(3, 1001, 2)))


def windows(port: int) -> None:
    """Steps of one byte, and one beyond what a window may be."""
    flood(port, frame(HEADERS, 4, 1, headers()), frame(WINDOW, 0, 1, struct.pack(">I", 1)) * 500)
    with contextlib.suppress(OSError), connect(port) as peer:
        peer.sendall(frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 2)
        peer.recv(65536)


def unread(port: int) -> None:
    """Send requests on streams with a small window, so that the server has to keep the responses."""
    block, body = headers(), framed_request()
    with contextlib.ExitStack() as held:
        for _ in range(10):
            peer = held.enter_context(connect(port))
            peer.sendall(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
            for stream in range(1, 200, 2):
                peer.sendall(frame(HEADERS, 4, stream, block) + frame(DATA, 1, stream, body))
        time.sleep(SECONDS)


def dribbles(port: int) -> None:
    """Bodies that come a byte at a time."""
    block, body = headers(), framed_request()
    with contextlib.ExitStack() as held:
        peers = [held.enter_context(connect(port)) for _ in range(10)]
        for peer in peers:
            peer.sendall(b"".join(frame(HEADERS, 4, stream, block) for stream in range(1, 100, 2)))
        for at in range(20):
            for peer in peers:
                peer.sendall(b"".join(frame(DATA, 0, stream, body[at : at + 1]) for stream in range(1, 100, 2)))
            time.sleep(SECONDS / 20)


def framed_request() -> bytes:
    """A ModelInfer of 20 rows for tests.support.toy_model, framed, as bytes of its fields."""
    raw = bytes(20 * 3 * 4)
    tensor = b"\x0a\x01x" + b"\x12\x04FP32" + b"\x1a\x02\x14\x03"
    message = b"\x0a\x03toy" + b"\x2a" + bytes([len(tensor)]) + tensor + b"\x3a\xf0\x01" + raw
    return b"\x00" + struct.pack(">I", len(message)) + message


ATTACKS = (
    *(rapid_resets, continuations, hpack_bombs, half_prefaces, bodiless, bombs),
    *(pings, settings, empty_frames, priorities, windows, unread, dribbles),
)
NAMES = tuple(attack.__name__ for attack in ATTACKS)


BODY = 4 * 2**20 - 1000  # bytes that each body announces
FRAME = 16384
STREAMS = 100  # bodies on one connection of gRPC
UNFINISHED_SECONDS = 12.0  # duration of the whole attack
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


def responses(server: Server) -> bool:
    """Whether the server responds to a small request within five seconds."""
    try:
        server.call(f"{INFERENCE}ModelInfer", request(np.zeros((1, 3), np.float32)).SerializeToString(), timeout=5)
    except grpc.RpcError:
        return False
    return True


def unfinished(transport: str, kind: str, count: int) -> None:
    """Run the attack, and a normal client next to it."""
    connections, streams = (count // STREAMS, STREAMS) if kind == "grpc" else (count, 1)
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        with serving(Path(folder), transport=transport, access_log="none") as server:
            seconds, failed = [], 0
            assert responses(server)
            before = resident(server)
            with callers(server, kind, connections, streams, BODY - 1) as ends:
                end = time.monotonic() + UNFINISHED_SECONDS
                while time.monotonic() < end:
                    begun = time.monotonic()
                    failed += not responses(server)
                    seconds.append(time.monotonic() - begun)
                    time.sleep(0.1)
                peak = resident(server, peak=True)
                print(f"{transport} {kind} {count}: RSS {before} MiB, peak {peak}, refused {dict(ends)}")
            print(
                f"another caller: {len(seconds)} calls, {failed} failed, "
                f"p50 {np.median(seconds):.3f} s, max {max(seconds):.3f} s"
            )


if __name__ == "__main__":
    if sys.argv[1] == "unfinished":
        unfinished(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        ATTACKS[NAMES.index(sys.argv[1])](int(sys.argv[2]))
