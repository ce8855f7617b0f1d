"""A rejected request leaves no reference cycle that holds its message, for every reason to reject it.

The garbage collector of the server is off (tests/support/transports.py), so a cycle stays until the test counts it.
A cycle that holds a message costs the message's size per request until the collector runs
(triton-inference-server/server#8764).
"""

import gzip
import signal
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.auth import token_file
from tests.integration.wire.test_transports import framed
from tests.support import credentials, toy_model
from tests.support.http_client import Peer, ask
from tests.support.server_process import INFERENCE, KAN, SHARED, Server, request, serving
from tests.support.tiers import spread
from tests.support.wait import until

COUNT = 5  # how often the test sends each request
LARGE = 60_000  # bytes of a message that no cycle may hold; less than a window
HELD = 2**15  # bytes in cycles that are not a message
CYCLES = {"asgi": 2, "grpcio": 64}  # objects for each request: grpc.aio makes some of its own, without the message
ALIVE = 300  # objects more than before, after all requests
INFER = f"{INFERENCE}ModelInfer"
COUNTING = ("tests.support.transports", "Counting")
TOKENS = {role: token_file.make() for role in ("admin", "read")}
WHO = credentials.bearer(TOKENS["admin"])
ROW = request(np.zeros((1, 3), np.float32)).SerializeToString()
STRANGE = request(np.zeros((1, 3), np.float32), "nobody", id="x" * LARGE).SerializeToString()
ZEROS = gzip.compress(bytes(8 * 2**20))
BROKEN = gzip.compress(np.random.default_rng(1).bytes(LARGE))[:-9]
Refused = Callable[[Server], str]


@pytest.fixture(scope="module", params=SHARED)
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("refusals")
    toy_model.write(root / "models")
    credentials.save_tokens(
        root / "tokens", "\n".join(credentials.block(role, token, role) for role, token in TOKENS.items())
    )
    chosen: dict[str, Any] = {"tokens": str(root / "tokens"), "access_log": "none"}
    with serving(root / "models", COUNTING, transport=request.param, **chosen) as running:
        yield running


def unary(path: str, data: bytes, metadata: Any = WHO, **options: Any) -> Refused:
    """Send a call with gRPC's own client; return its status code."""

    def send(server: Server) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            server.call(path, data, metadata=metadata, **options)
        return str(caught.value.code().name)

    return send


def stream(*messages: bytes, strict: bool = False) -> Refused:
    """Send a ModelStreamInfer; return its status code."""

    def send(server: Server) -> str:
        metadata = (*WHO, ("triton_grpc_error", "true")) if strict else WHO
        call = server.channel.stream_stream(f"{INFERENCE}ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter(messages), timeout=60, metadata=metadata))
        return str(caught.value.code().name)

    return send


def raw(body: bytes, *headers: tuple[str, str]) -> Refused:
    """Send a body that gRPC clients do not send; return the number of the status."""

    def send(server: Server) -> str:
        peer = Peer(server.port)
        with peer.socket:
            sent = peer.open(*WHO, *headers)
            for at in range(0, len(body), 16384):
                peer.send(sent, body[at : at + 16384], end=at + 16384 >= len(body))
            return peer.headers(sent)["grpc-status"]

    return send


def web(method: str, path: str, body: bytes | None = None, **headers: str) -> Refused:
    """Send a request over HTTP/1; return its status."""
    return lambda server: str(ask(server, path, body, method, **{**dict(WHO), **headers}).status)


PATH = "/v2/models/toy/infer"
BY_GRPC: dict[str, tuple[Refused, str]] = {
    "unknown model": (unary(INFER, STRANGE), "NOT_FOUND"),
    "no message": (unary(INFER, b"\xff" * LARGE), "INVALID_ARGUMENT"),
    "too large": (unary(INFER, bytes(5 * 2**20)), "RESOURCE_EXHAUSTED"),
    "bomb": (unary(INFER, bytes(5 * 2**20), compression=grpc.Compression.Gzip), "RESOURCE_EXHAUSTED"),
    "unknown method": (unary("/x.Y/Z", bytes(LARGE)), "UNIMPLEMENTED"),
    "unsupported": (unary(f"{INFERENCE}TraceSetting", bytes(LARGE)), "UNIMPLEMENTED"),
    "no credential": (unary(INFER, STRANGE, ()), "UNAUTHENTICATED"),
    "not enough": (unary(INFER, STRANGE, credentials.bearer(TOKENS["read"])), "PERMISSION_DENIED"),
    "no query": (unary(f"{KAN}QueryEdges", b"\xff" * LARGE), "INVALID_ARGUMENT"),
    "of a stream": (stream(STRANGE, ROW, strict=True), "NOT_FOUND"),
    "of a stream, too large": (stream(ROW, bytes(5 * 2**20)), "RESOURCE_EXHAUSTED"),
}
BY_HAND: dict[str, tuple[Refused, str]] = {
    "broken gzip": (raw(framed(BROKEN, 1), ("grpc-encoding", "gzip")), "13"),
    "gzip without a name": (raw(framed(BROKEN, 1)), "13"),
    "unknown encoding": (raw(framed(BROKEN, 1), ("grpc-encoding", "snappy")), "12"),
    "two messages": (raw(framed(bytes(LARGE // 2)) * 2), "13"),
    "cut off": (raw(framed(bytes(LARGE))[:-1]), "13"),
    "no timeout": (raw(framed(ROW), ("grpc-timeout", "x")), "13"),
    "HTTP, broken gzip": (web("POST", PATH, BROKEN, content_encoding="gzip"), "400"),
    "HTTP, bomb": (web("POST", PATH, ZEROS, content_encoding="gzip"), "413"),
    "HTTP, no JSON": (web("POST", PATH, b"{" * LARGE), "400"),
    "HTTP, unknown model": (web("POST", "/v2/models/no/infer", b'{"inputs": []}'), "404"),
    "HTTP, unknown encoding": (web("POST", PATH, bytes(LARGE), content_encoding="br"), "501"),
    "HTTP, no route": (web("GET", "/nowhere"), "404"),
    "HTTP, wrong method": (web("PUT", "/v2"), "405"),
    "HTTP, watch": (web("GET", "/v1/kan/models/no/watch"), "404"),
    "HTTP, no credential": (web("POST", PATH, bytes(LARGE), authorization=""), "401"),
}


def counted(server: Server) -> dict[str, Any]:
    before = sum(line["event"] == "counted" for line in server.lines())
    server.process.send_signal(signal.SIGUSR1)
    return server.logged("counted", count=before + 1)[-1]


@spread("what", BY_GRPC, 2, "load")
def test_a_refused_request_leaves_nothing(server: Server, what: str) -> None:
    leaves_nothing(server, *BY_GRPC[what])


# gRPC core refuses these by itself, and HTTP is the other transport's.
@pytest.mark.parametrize("server", ["asgi"], indirect=True)
@spread("what", BY_HAND, 2, "load")
def test_a_request_by_hand_or_over_http_that_is_refused_leaves_nothing(server: Server, what: str) -> None:
    leaves_nothing(server, *BY_HAND[what])


def leaves_nothing(server: Server, send: Refused, expected: str) -> None:
    assert send(server) == expected
    counted(server)
    before = counted(server)
    for _ in range(COUNT):
        assert send(server) == expected
    until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())
    result = counted(server)
    transport = "asgi" if '"asgi"' in str(server.process.args) else "grpcio"
    assert result["held"] < HELD, result
    assert result["cycles"] <= CYCLES[transport] * COUNT, result
    assert result["alive"] < before["alive"] + ALIVE
