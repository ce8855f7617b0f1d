"""The client against a gRPC server that misbehaves on purpose: retries, halving, translation."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from kanserve.client import chunking, control
from kanserve.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NotAllowed,
    NotFound,
    NotSupported,
    RateLimited,
    ServerFailed,
    TooLarge,
    Unavailable,
    Unreachable,
)
from kanserve.client.results import ServedModel
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.pb import kan_pb2 as kan
from kanserve.types import TensorInfo

MODEL = ServedModel(
    "m", ("1",), "onnxruntime_onnx", (TensorInfo("x", "FP32", (-1, 3)),), (TensorInfo("y", "FP32", (-1, 3)),), 0
)
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


def echo(data: bytes, context: grpc.ServicerContext) -> bytes:
    """The input as the output."""
    request = oip.ModelInferRequest.FromString(data)
    answer = oip.ModelInferResponse(model_name="m", model_version="1")
    answer.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
    answer.raw_output_contents.append(request.raw_input_contents[0])
    return answer.SerializeToString()


@pytest.mark.parametrize(("failures", "succeeds"), [(0, True), (3, True), (4, False)])
def test_unavailable_is_tried_again_three_times(failures: int, succeeds: bool) -> None:
    calls: list[bytes] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        if len(calls) <= failures:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Server not ready")
        return oip.ServerReadyResponse(ready=True).SerializeToString()

    with answering(answer) as url, Client(url) as client:
        if succeeds:
            assert client.ready()
        else:
            with pytest.raises(Unavailable, match="not available: Server not ready"):
                client.ready()
    assert len(calls) == min(failures, 3) + 1


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


@pytest.mark.parametrize(
    ("code", "kind", "input_is_wrong", "says"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput, True, "^the text$"),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidInput, True, "^the text$"),
        (grpc.StatusCode.NOT_FOUND, NotFound, True, "^the text$"),
        (grpc.StatusCode.FAILED_PRECONDITION, NotSupported, True, "^the text$"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TooLarge, False, "^the text$"),
        (grpc.StatusCode.INTERNAL, ServerFailed, False, "failed .INTERNAL.: the text"),
        (grpc.StatusCode.UNAUTHENTICATED, NotAllowed, False, "^the text$"),
        (grpc.StatusCode.UNIMPLEMENTED, NotSupported, False, "does not offer RepositoryIndex: the text"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded, False, "within 30 s"),
    ],
)
def test_other_codes_are_final_and_translated(
    code: grpc.StatusCode, kind: type[ClientError], input_is_wrong: bool, says: str
) -> None:
    calls: list[bytes] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        context.abort(code, "the text")
        raise AssertionError

    with answering(answer) as url, Client(url) as client, pytest.raises(ClientError, match=says) as caught:
        client.index()
    assert (type(caught.value), caught.value.code, caught.value.input_is_wrong) == (kind, code.name, input_is_wrong)
    assert len(calls) == 1


def test_nobody_at_the_address_is_an_error_of_its_own() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unreachable, match=r"no server answers at 127\.0\.0\.1:1"):
        client.ready()


@pytest.mark.parametrize("count", [0, 1, 7, 64, 100])
def test_what_is_too_large_is_halved_until_it_fits(count: int) -> None:
    sizes: list[int] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        size = oip.ModelInferRequest.FromString(data).inputs[0].shape[0]
        if size > 7:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
        sizes.append(size)
        return echo(data, context)

    rows = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    with answering(answer) as url, Client(url) as client:
        found = chunking.infer(client, MODEL, rows)
    np.testing.assert_array_equal(found.outputs["y"], rows)
    assert sum(sizes) == count
    assert max(sizes) <= 7


def test_a_single_row_that_is_too_large_is_an_error() -> None:
    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "ask for less")
        raise AssertionError

    with answering(answer) as url, Client(url) as client, pytest.raises(TooLarge, match="ask for less"):
        chunking.infer(client, MODEL, np.zeros((4, 3), np.float32))


def limited(context: grpc.ServicerContext, wait: str) -> None:
    context.set_trailing_metadata((("grpc-retry-pushback-ms", wait),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")


@pytest.mark.parametrize("retries", [0, 3])
def test_a_rate_limit_is_waited_for_and_halves_nothing(retries: int) -> None:
    sizes: list[int] = []
    refused: list[float] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        if len(refused) < 9:
            refused.append(time.monotonic())
            limited(context, "30")
        sizes.append(oip.ModelInferRequest.FromString(data).inputs[0].shape[0])
        return echo(data, context)

    rows = np.arange(90, dtype=np.float32).reshape(30, 3)
    model = replace(MODEL, max_batch_size=4)
    with answering(answer) as url, Client(url, retries=retries) as client:
        found = chunking.infer(client, model, rows)
        np.testing.assert_array_equal(found.outputs["y"], rows)
        assert sorted(sizes) == [2, *[4] * 7]
        del refused[:]
        assert chunking.split(client, rows, 30, lambda part: client.infer(MODEL, part), None)[0].outputs["y"].shape == (
            30,
            3,
        )
    assert refused[-1] - refused[0] >= 8 * 0.03 * 0.9


@pytest.mark.parametrize("wait", ["-1", "60000"])
def test_a_server_that_pushes_back_for_good_or_for_too_long_is_asked_once(wait: str) -> None:
    calls: list[bytes] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        limited(context, wait)
        raise AssertionError

    with answering(answer) as url, Client(url) as client:
        for ask in (client.ready, lambda: chunking.infer(client, MODEL, np.zeros((4, 3), np.float32))):
            with pytest.raises(RateLimited, match="too many") as caught:
                ask()
            assert caught.value.code == "RESOURCE_EXHAUSTED"
            assert caught.value.retry_after == (None if wait == "-1" else 60)
    assert len(calls) == 2


def test_several_requests_are_under_way_and_their_answers_in_order() -> None:
    together = threading.Barrier(chunking.WINDOW)

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        together.wait(timeout=60)  # breaks unless that many calls wait at once
        if oip.ModelInferRequest.FromString(data).raw_input_contents[0][:4] == bytes(4):
            time.sleep(0.05)  # the first gets its response last
        return echo(data, context)

    rows = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)
    with answering(answer) as url, Client(url) as client:
        parts = [
            answer.outputs["y"] for answer in chunking.stream(client, replace(MODEL, max_batch_size=2), iter([rows]))
        ]
    assert [len(part) for part in parts] == [2] * 8
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_requests_stay_below_the_message_limit() -> None:
    sizes: list[int] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        sizes.append(len(data))
        return echo(data, context)

    rows = np.ones((1_000_000, 3), np.float32)  # 12 MB
    with answering(answer) as url, Client(url) as client:
        assert len(chunking.infer(client, MODEL, rows).outputs["y"]) == len(rows)
    assert max(sizes) < 4 * 2**20  # gRPC's default: the server above would have refused more
    assert len(sizes) == 4


@pytest.mark.parametrize(
    ("answer", "state"),
    [(b"\x08\x01", "SERVING"), (b"\x08\x02", "NOT_SERVING"), (b"\x08\x03", "SERVICE_UNKNOWN"), (b"", "UNKNOWN")],
)
def test_the_hand_written_health_message(answer: bytes, state: str) -> None:
    asked: list[Any] = []

    def reply(data: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(health_pb2.HealthCheckRequest.FromString(data))
        return answer

    with answering(reply) as url, Client(url) as client:
        assert client.health("digits") == state
        assert (
            health_pb2.HealthCheckResponse.ServingStatus.Name(health_pb2.HealthCheckResponse.FromString(answer).status)
            == state
        )
    assert asked == [health_pb2.HealthCheckRequest(service="digits")]
