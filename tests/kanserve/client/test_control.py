"""Tests of `client/control.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from kanserve.client import control
from kanserve.client.errors import Unavailable
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2 as kan

Answer = Callable[[bytes, grpc.ServicerContext], bytes]


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server that gives every method to `answer`."""

    class Everything(grpc.GenericRpcHandler):
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_what_may_not_be_done_twice_is_not_tried_again() -> None:
    calls: list[bytes] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        if len(calls) % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return kan.VersionChoice(model_name="m", model_version="2", previous_version="1").SerializeToString()

    with answering(answer) as url, Client(url) as client:
        assert control.promote(client, "m", "2") == control.VersionChoice("m", "2", "1")
        assert len(calls) == 2
        with pytest.raises(Unavailable, match="not available: gone"):
            control.rollback(client, "m")
    assert len(calls) == 3
