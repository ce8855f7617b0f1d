"""Request limits per client over both transports and HTTP: rate, deadline, headers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.auth import token_file
from kanserve.client.aio import AsyncClient
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as pb
from tests.support import credentials, http_client, toy_model
from tests.support.bad_requests import refused
from tests.support.server_process import INFERENCE, SHARED, Server, request, serving

ROWS = np.zeros((1, 3), np.float32)
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}]}
MANY = 10_000  # calls, of which a slow machine too sends more than five in a second
RATED, FREE = token_file.make(), token_file.make()


def running(transport: str, folder: Path, **limits: Any) -> Iterator[Server]:
    """A server with two callers. One of them has five calls per second."""
    pytest.importorskip("h2corn")
    toy_model.write(folder / "models")
    callers = credentials.block("rated", RATED, "read", rate=5) + credentials.block("free", FREE, "infer")
    credentials.save_tokens(folder / "tokens", callers)
    port = {} if transport == "asgi" else {"http_port": 0}
    with serving(folder / "models", tokens=str(folder / "tokens"), transport=transport, **port, **limits) as server:
        yield server


@pytest.fixture(scope="module", params=SHARED)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from running(request.param, tmp_path_factory.mktemp("limits"), max_header_bytes=8192)


@pytest.fixture(scope="module", params=SHARED)
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A request waits 10 s for others, and may take 0.3 s."""
    limits = {"max_deadline_seconds": 0.3, "max_queue_delay_microseconds": 10_000_000}
    yield from running(request.param, tmp_path_factory.mktemp("deadlines"), **limits)


def test_a_caller_that_asks_too_often(server: Server) -> None:
    shown = credentials.bearer(RATED)
    calls = (server.call(f"{INFERENCE}ServerMetadata", b"", metadata=shown) for _ in range(MANY))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "rated sends more than 5 calls per second") as caught:
        list(calls)
    assert 0 < int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) <= 200  # until the next call
    replies = (http_client.ask(server, "/v2", **dict(shown)) for _ in range(MANY))
    limited = next(reply for reply in replies if reply.status != 200)
    assert (limited.status, limited.headers["retry-after"]) == (429, "1")
    assert http_client.ask(server, "/healthz", **dict(shown)).status == 200
    assert http_client.ask(server, "/v2", **dict(credentials.bearer(FREE))).status == 200


def test_both_clients_wait_until_a_rate_lets_them_through(server: Server) -> None:
    url, options = f"127.0.0.1:{server.port}", {"token": RATED, "retries": 20}

    async def awaited() -> list[object]:
        async with AsyncClient(url, **options) as client:  # type: ignore[arg-type]  # of a table
            return await asyncio.gather(*(client.index() for _ in range(3)))

    with Client(url, **options) as client:  # type: ignore[arg-type]  # as above
        expected = client.index()
        assert [client.index() for _ in range(6)] == [expected] * 6
        assert asyncio.run(awaited()) == [expected] * 3


def test_a_retry_policy_of_grpc_waits_until_a_rate_lets_it_through(server: Server) -> None:
    """gRPC's own retries, which clients in other languages have, need the status in the first head of a response."""
    policy = {"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "1s", "backoffMultiplier": 2}
    config = {"name": [{}], "retryPolicy": {**policy, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}
    options = [("grpc.service_config", json.dumps({"methodConfig": [config]}))]
    with grpc.insecure_channel(server.address, options=options) as channel:
        call = channel.unary_unary(f"{INFERENCE}ServerMetadata")
        replies = [call(b"", timeout=60, metadata=credentials.bearer(RATED)) for _ in range(12)]
    assert set(replies) == {replies[0]}


@pytest.mark.parametrize("supplied", [None, 60.0])
def test_a_deadline_that_is_later_or_absent_is_cut(hasty: Server, supplied: float | None) -> None:
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        hasty.channel.unary_unary(f"{INFERENCE}ModelInfer")(
            request(ROWS).SerializeToString(), timeout=supplied, metadata=credentials.bearer(FREE)
        )


def test_the_same_over_http_and_on_a_stream(hasty: Server) -> None:
    shown = credentials.bearer(FREE)
    assert http_client.infer(hasty, BODY, **dict(shown)).status == 504
    requested = [request(ROWS, id=str(at)).SerializeToString() for at in range(3)]
    stream = hasty.channel.stream_stream(f"{INFERENCE}ModelStreamInfer")(iter(requested), timeout=60, metadata=shown)
    responses = [pb.ModelStreamInferResponse.FromString(data) for data in stream]
    assert [response.infer_response.id for response in responses] == ["0", "1", "2"]
    assert all(response.error_message for response in responses)


def test_headers_beyond_their_limit_are_one_requests_own(server: Server) -> None:
    shown = credentials.bearer(FREE)
    watch = server.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60, metadata=shown)
    next(watch)
    server.call(f"{INFERENCE}ServerMetadata", b"", metadata=(*shown, ("x-a", "a" * 6000)))
    with pytest.raises(grpc.RpcError) as caught:
        server.call(f"{INFERENCE}ServerMetadata", b"", metadata=(*shown, ("x-a", "a" * 12000)))
    said = caught.value
    assert said.code() is grpc.StatusCode.RESOURCE_EXHAUSTED or "431" in said.details()
    assert http_client.ask(server, "/healthz", x_a="a" * 12000).status == 431
    assert http_client.ask(server, "/healthz", x_a="a" * 6000).status == 200
    assert watch.is_active()
    watch.cancel()
