"""HTTP/2 peer written by hand, for requests that no gRPC client sends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest

from tests.support import toy_model
from tests.support.server_process import INFERENCE, Server, request, serving
from tests.support.tiers import full

INFER = f"{INFERENCE}ModelInfer"


class Peer:
    """HTTP/2 by hand, for what no client of gRPC would do."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.state.initiate_connection()
        self.events: list[Any] = []
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.state.data_to_send())

    def open(self, *more: tuple[str, str], path: str = INFER, kind: str = "application/grpc", end: bool = False) -> int:
        stream = self.state.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        self.state.send_headers(stream, [*headers, ("content-type", kind), ("te", "trailers"), *more], end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = True) -> None:
        self.state.send_data(stream, data, end_stream=end)
        self.flush()

    def headers(self, stream: int) -> dict[str, str]:
        """All headers and trailers of a response, after its end."""
        result: dict[str, str] = {}
        while True:
            data = self.socket.recv(65536)
            assert data, "the connection was closed"
            for event in self.state.receive_data(data):
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    result.update(event.headers)
                if isinstance(event, h2.events.StreamEnded):
                    return result
                if isinstance(event, h2.events.StreamReset):
                    return {**result, "reset": str(event.error_code)}
            self.flush()


Code = grpc.StatusCode


ROWS = np.full((2, 3), 0.25, np.float32)


HYPERCORN = ("tests.support.hypercorn_transport", "Hypercorn")
FOREIGN = pytest.param("hypercorn", marks=full("peer"))


def _running(transport: str, root: Path, **settings: Any) -> Iterator[Server]:
    if transport == "asgi":
        pytest.importorskip("h2corn")
    toy_model.write(root)
    foreign = transport == "hypercorn"
    chosen = {} if foreign else {"transport": transport}
    with serving(root, HYPERCORN if foreign else (), access_log="all", **chosen, **settings) as running:
        yield running


@pytest.fixture(scope="module", params=["asgi", "grpcio", FOREIGN])
def lone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that only these tests trouble."""
    yield from _running(request.param, tmp_path_factory.mktemp("lone"), request_read_timeout=60.0)


@pytest.fixture(scope="module", params=["asgi", FOREIGN])
def hasty(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The same with one second for the arrival of a request."""
    yield from _running(request.param, tmp_path_factory.mktemp("hasty"), request_read_timeout=1.0)


def body(rows: np.ndarray = ROWS, **fields: Any) -> bytes:
    return request(rows, **fields).SerializeToString()


def code(server: Server, data: bytes, path: str = INFER, **options: Any) -> grpc.StatusCode:
    try:
        server.call(path, data, **options)
    except grpc.RpcError as error:
        return error.code()
    return Code.OK


@pytest.fixture
def peer(lone: Server) -> Iterator[Peer]:
    created = Peer(lone.port)
    with created.socket:
        yield created


@pytest.fixture
def hasty_peer(hasty: Server) -> Iterator[Peer]:
    created = Peer(hasty.port)
    with created.socket:
        yield created


def framed(message: bytes, packed: int = 0) -> bytes:
    return bytes([packed]) + len(message).to_bytes(4, "big") + message
