"""Tests of `system/compression.py`."""

import gzip

import grpc
import numpy as np
import pytest

from kanserve.pb import grpc_service_pb2 as pb
from tests.kanserve.conftest import TRANSPORTS, WAYS
from tests.support.bad_requests import refused
from tests.support.http_client import INFER, Code, Peer, body, code, framed
from tests.support.http_client import lone as lone
from tests.support.http_client import peer as peer
from tests.support.server_process import Server
from tests.support.wait import until


@pytest.mark.parametrize("lone", WAYS, indirect=True)
def test_compressed_requests_may_not_unpack_beyond_the_limit(lone: Server) -> None:
    rows = np.zeros((8, 3), np.float32)
    for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        response = lone.channel.unary_unary(INFER)(body(rows), timeout=60, compression=kind)
        assert pb.ModelInferResponse.FromString(response).outputs[0].shape == [8, 2]
    bomb = pb.ModelInferRequest(model_name="toy", id="x" * (5 * 2**20)).SerializeToString()
    with refused(Code.RESOURCE_EXHAUSTED):
        lone.channel.unary_unary(INFER)(bomb, timeout=60, compression=grpc.Compression.Gzip)


@pytest.mark.parametrize("lone", TRANSPORTS, indirect=True)
def test_a_message_that_does_not_unpack_is_no_traceback(peer: Peer, lone: Server) -> None:
    """gRPC core ends such a call by itself, and then rejects the status of the server."""
    broken = gzip.compress(bytes(2**20))[:-8] + bytes(8)
    for _ in range(20):
        stream = peer.open(("grpc-encoding", "gzip"))
        peer.send(stream, framed(broken, 1))
        assert peer.headers(stream)["grpc-status"] == str(Code.INTERNAL.value[0])
    assert code(lone, body()) is Code.OK
    until(lambda: sum(line.get("code") == "INTERNAL" for line in lone.lines()) >= 20)
    assert "Traceback" not in lone.log.read_text()
