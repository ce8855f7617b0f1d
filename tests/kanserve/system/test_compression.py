"""Tests of `system/compression.py`."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.pb import grpc_service_pb2 as pb
from tests.support import toy_model
from tests.support.http_peer import INFER, Peer
from tests.support.server_process import Server, request, serving, wait_until

pytestmark = pytest.mark.slow


Code = grpc.StatusCode


ROWS = np.full((2, 3), 0.25, np.float32)


HYPERCORN = ("tests.support.hypercorn_transport", "Hypercorn")


@pytest.fixture(scope="module", params=["asgi", "grpcio", "hypercorn"])
def lone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that only these tests trouble."""
    if request.param == "asgi":
        pytest.importorskip("h2corn")
    root = tmp_path_factory.mktemp("lone")
    toy_model.write(root)
    foreign = request.param == "hypercorn"
    chosen = {} if foreign else {"transport": request.param}
    with serving(root, HYPERCORN if foreign else (), request_read_timeout=1.0, access_log="all", **chosen) as running:
        yield running


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


def framed(message: bytes, packed: int = 0) -> bytes:
    return bytes([packed]) + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(lone: Server, kind: grpc.Compression) -> None:
    rows = np.zeros((8, 3), np.float32)
    answer = lone.channel.unary_unary(INFER)(body(rows), timeout=10, compression=kind)
    assert pb.ModelInferResponse.FromString(answer).outputs[0].shape == [8, 2]


def test_a_compressed_request_may_not_unpack_beyond_the_limit(lone: Server) -> None:
    bomb = pb.ModelInferRequest(model_name="toy", id="x" * (5 * 2**20)).SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        lone.channel.unary_unary(INFER)(bomb, timeout=20, compression=grpc.Compression.Gzip)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("lone", ["asgi", "grpcio"], indirect=True)
def test_a_message_that_does_not_unpack_is_no_traceback(peer: Peer, lone: Server) -> None:
    """gRPC core ends such a call by itself, and then rejects the status of the server."""
    broken = gzip.compress(bytes(2**20))[:-8] + bytes(8)
    for _ in range(20):
        stream = peer.open(("grpc-encoding", "gzip"))
        peer.send(stream, framed(broken, 1))
        assert peer.headers(stream)["grpc-status"] == str(Code.INTERNAL.value[0])
    assert code(lone, body()) is Code.OK
    wait_until(lambda: sum(line.get("code") == "INTERNAL" for line in lone.lines()) >= 20)
    assert "Traceback" not in lone.log.read_text()
