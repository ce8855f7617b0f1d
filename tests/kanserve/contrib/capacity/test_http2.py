"""Tests of `capacity/http2.py`: header fields, frames and windows against the package h2, and a real server."""

import contextlib
import itertools
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest

from kanserve.contrib.capacity import http2
from kanserve.contrib.capacity.http2 import LOST, CapacityError, Connection

MESSAGE = bytes(range(256)) * 300  # larger than the first window


def test_a_head_is_read_by_another_implementation() -> None:
    fields = (("authorization", "Bearer " + "x" * 300), ("grpc-timeout", "30S"))
    block = http2.head("/a.B/C", "127.0.0.1:1", secure=True, fields=fields)
    read = dict(hpack.Decoder().decode(block))
    assert read == {
        ":method": "POST", ":scheme": "https", ":path": "/a.B/C", ":authority": "127.0.0.1:1",
        "content-type": "application/grpc", "te": "trailers", **dict(fields),
    }  # fmt: skip


def test_the_status_of_another_implementation_is_read() -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    common = [(":status", "200"), ("content-type", "application/grpc")]
    for code, huffman in itertools.product(range(17), (True, False)):
        fields = [*common, ("grpc-status", str(code)), ("x", "1" * 200)]
        assert http2.grpc_status(encoder.encode(fields, huffman=huffman)) == code
        assert http2.grpc_status(encoder.encode(common, huffman=huffman)) is None


class Peer:
    """A server of the package h2 with small windows. It calls `response` for each complete request."""

    def __init__(self, response: Callable[[h2.connection.H2Connection, int, bytes], None]) -> None:
        self.response, self.bodies = response, dict[int, bytes]()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def run(self) -> None:
        with contextlib.suppress(OSError):
            end, _ = self.listening.accept()
            with end:
                self._serve(end)

    def _serve(self, end: socket.socket) -> None:
        peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        peer.initiate_connection()
        peer.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        end.sendall(peer.data_to_send())
        while data := end.recv(65536):
            for event in peer.receive_data(data):
                self._handle(peer, event)
            end.sendall(peer.data_to_send())

    def _handle(self, peer: h2.connection.H2Connection, event: Any) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if isinstance(event, h2.events.StreamEnded):
            self.response(peer, event.stream_id, self.bodies[event.stream_id])


@contextlib.contextmanager
def connection(response: Callable[..., None]) -> Iterator[Connection]:
    peer = Peer(response)
    thread = threading.Thread(target=peer.run)
    thread.start()
    opened = Connection(f"127.0.0.1:{peer.port}", http2.head("/a.B/C", "x", secure=False), MESSAGE, None)
    try:
        exchange(opened, lambda done: opened.ready)
        yield opened
    finally:
        opened.close()
        peer.listening.close()
        thread.join()


def exchange(opened: Connection, condition: Callable[[list[tuple[int, int]]], bool]) -> list[tuple[int, int]]:
    """Send and receive until the condition holds."""
    done: list[tuple[int, int]] = []
    while not condition(done):
        opened.send()
        select.select([opened.socket], [], [], 1)
        done += opened.receive()
    return done


def test_bodies_wait_for_the_windows_of_the_server() -> None:
    bodies = []

    def response(peer: h2.connection.H2Connection, stream: int, body: bytes) -> None:
        bodies.append(body)
        peer.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        peer.send_data(stream, b"\0\0\0\0\1x")
        peer.send_headers(stream, [("grpc-status", str(len(bodies) - 1))], end_stream=True)

    with connection(response) as opened:
        for number in range(3):
            opened.request(number)
        assert opened.pending == 3
        assert sorted(exchange(opened, lambda done: len(done) == 3)) == [(0, 0), (1, 1), (2, 2)]
        assert opened.pending == 0
    assert bodies == [b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE] * 3


def test_a_reset_stream_and_a_closed_connection_lose_requests() -> None:
    def response(peer: h2.connection.H2Connection, stream: int, body: bytes) -> None:
        if stream == 1:
            peer.reset_stream(stream)
        else:
            peer.close_connection()

    with connection(response) as opened:
        opened.request(7)
        assert exchange(opened, lambda done: bool(done)) == [(7, LOST)]
        opened.request(8)
        exchange(opened, lambda done: opened.closing)
        assert not opened.free
        opened.socket.shutdown(socket.SHUT_RDWR)
        assert exchange(opened, bool) == [(8, LOST)]
        assert opened.broken


def test_forgotten_requests_have_no_number() -> None:
    waiting: list[tuple[Any, int]] = []
    with connection(lambda peer, stream, body: waiting.append((peer, stream))) as opened:
        opened.request(5)
        exchange(opened, lambda done: bool(waiting))
        opened.forget()
        opened.socket.shutdown(socket.SHUT_RDWR)
        assert exchange(opened, bool) == [(http2.FORGOTTEN, LOST)]


def test_padded_headers_are_an_error() -> None:
    left, right = socket.socketpair()
    opened = Connection.__new__(Connection)
    with left, right, pytest.raises(CapacityError, match="does not read"):
        Connection._status(opened, b"", http2.PADDED | http2.END_HEADERS)
