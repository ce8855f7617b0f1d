"""Local server that returns fixed responses to a client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

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


@contextlib.contextmanager
def refusing(code: grpc.StatusCode, text: str, *metadata: tuple[str, str]) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that refuses every call, and the calls."""
    calls: list[bytes] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        context.set_trailing_metadata(metadata)
        context.abort(code, text)
        raise AssertionError

    with answering(answer) as url:
        yield url, calls
