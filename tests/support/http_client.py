"""Clients of HTTP: each way that a server speaks it, plain requests, an HTTP/2 peer by hand, fixed responses."""

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
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

HYPERCORN = ("tests.support.transports", "Hypercorn")
WAYS = ("asgi", "grpcio", "hypercorn")  # grpcio with a second port
ROWS = np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, read."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(server: Server, path: str, body: Any = None, method: str = "", timeout: float = 60, **headers: str) -> Reply:
    """Send one request on a separate connection. `body`: bytes, or a value that becomes JSON. Names of headers have _
    for -."""
    connection = http.client.HTTPConnection(server.http, timeout=timeout)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        response = connection.getresponse()
        result = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, result, response.read())
    finally:
        connection.close()


def infer(server: Server, body: Any, model: str = "toy", **headers: str) -> Reply:
    """POST .../infer."""
    return ask(server, f"/v2/models/{model}/infer", body, **headers)


def tensor(rows: np.ndarray = ROWS, datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    """An input of the toy, as JSON."""
    return {"name": "x", "datatype": datatype, "shape": list(rows.shape), "data": rows.ravel().tolist(), **more}


def way(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the arguments of `serving` for one of WAYS: a transport of the tests and settings."""
    if name == "hypercorn":
        return HYPERCORN, {}
    pytest.importorskip("h2corn")
    return (), {"transport": "asgi"} if name == "asgi" else {"transport": "grpcio", "http_port": 0}


def served(
    ways: Sequence[Any] | None = None, models: str = "", write: Callable[[Path], Any] = toy_model.write, **settings: Any
) -> Any:
    """A fixture of a module: a server in each of WAYS, over the folder of the fixture `models`, or one that `write`
    fills."""

    @pytest.fixture(scope="module", params=ways)
    def fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        root = request.getfixturevalue(models) if models else tmp_path_factory.mktemp("models")
        if not models:
            write(root)
        plugin, chosen = way(request.param) if ways else ((), {})
        with serving(root, plugin, **chosen, **settings) as server:
            yield server

    return fixture


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

PEER_ROWS = np.full((2, 3), 0.25, np.float32)
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


def body(rows: np.ndarray = PEER_ROWS, **fields: Any) -> bytes:
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


def framed(message: bytes, packed: int = 0) -> bytes:
    return bytes([packed]) + len(message).to_bytes(4, "big") + message


Response = Callable[[bytes, grpc.ServicerContext], bytes]


@contextlib.contextmanager
def responding(response: Response) -> Iterator[str]:
    """The address of a server that gives every method to `response`."""

    class Everything(grpc.GenericRpcHandler):
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(response)

    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextlib.contextmanager
def refusing(code: grpc.StatusCode, text: str, *metadata: tuple[str, str]) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that rejects every call, and the calls."""
    calls: list[bytes] = []

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        context.set_trailing_metadata(metadata)
        context.abort(code, text)
        raise AssertionError

    with responding(response) as url:
        yield url, calls
