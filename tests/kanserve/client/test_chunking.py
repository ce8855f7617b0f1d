"""Tests of `client/chunking.py`."""

import contextlib
import threading
import time
from dataclasses import replace
from unittest import mock

import grpc
import numpy as np
import pytest

from kanserve.client import chunking, sync
from kanserve.client.errors import ServerFailed, TooLarge
from kanserve.client.results import ServedModel
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.types import TensorInfo
from tests.support import chunked
from tests.support.http_client import refusing, responding

MODEL = ServedModel(
    "m", ("1",), "onnxruntime_onnx", (TensorInfo("x", "FP32", (-1, 3)),), (TensorInfo("y", "FP32", (-1, 3)),), 0
)


def echo(data: bytes, context: grpc.ServicerContext) -> bytes:
    request = oip.ModelInferRequest.FromString(data)
    response = oip.ModelInferResponse(model_name="m", model_version="1")
    response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
    response.raw_output_contents.append(request.raw_input_contents[0])
    return response.SerializeToString()


@pytest.mark.parametrize("count", [0, 1, 7, 64, 100])
def test_what_is_too_large_is_halved_until_it_fits(count: int) -> None:
    sizes: list[int] = []

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        size = oip.ModelInferRequest.FromString(data).inputs[0].shape[0]
        if size > 7:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
        sizes.append(size)
        return echo(data, context)

    rows = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    with responding(response) as url, Client(url) as client:
        result = chunked.infer(client, MODEL, rows)
    np.testing.assert_array_equal(result.outputs["y"], rows)
    assert sum(sizes) == count
    assert max(sizes) <= 7


@pytest.mark.parametrize("has", [True, False])
def test_one_result_is_of_one_version(has: bool) -> None:
    """The default version changes after the first request. `has`: the server still has the version before."""

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        request = oip.ModelInferRequest.FromString(data)
        response = oip.ModelInferResponse.FromString(echo(data, context))
        first = not np.frombuffer(request.raw_input_contents[0], "<f4")[0]
        response.model_version = "1" if first or (has and request.model_version == "1") else "2"
        return response.SerializeToString()

    rows = np.arange(90, dtype=np.float32).reshape(30, 3)
    wrong = contextlib.nullcontext() if has else pytest.raises(ServerFailed, match="it is of version '2', expected ver")
    with responding(response) as url, Client(url) as client, wrong:
        result = chunked.infer(client, replace(MODEL, max_batch_size=4), rows)
        assert result.version == "1"
        np.testing.assert_array_equal(result.outputs["y"], rows)


def test_a_single_row_that_is_too_large_is_an_error() -> None:
    large = pytest.raises(TooLarge, match="ask for less")
    with refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, "ask for less") as (url, _), Client(url) as client, large:
        chunked.infer(client, MODEL, np.zeros((4, 3), np.float32))


@pytest.mark.parametrize("retries", [0, 3])
def test_a_rate_limit_is_waited_for_and_halves_nothing(retries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    refused: list[int] = []
    pauses: list[float] = []
    for module in (chunking, sync):
        monkeypatch.setattr(module, "time", mock.Mock(wraps=time, sleep=pauses.append))

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        size = oip.ModelInferRequest.FromString(data).inputs[0].shape[0]
        if len(refused) < 9:
            refused.append(size)
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "30000"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
        sizes.append(size)
        return echo(data, context)

    rows = np.arange(90, dtype=np.float32).reshape(30, 3)
    with responding(response) as url, Client(url, retries=retries, timeout=600) as client:
        result = chunked.infer(client, replace(MODEL, max_batch_size=4), rows)
        np.testing.assert_array_equal(result.outputs["y"], rows)
        assert sorted(sizes) == [2, *[4] * 7]
        refused.clear()
        (whole,) = chunking.split(client, rows, 30, lambda part: client.infer(MODEL, part), None)
    assert whole.outputs["y"].shape == (30, 3)
    assert refused == [30] * 9
    assert [pause for pause in pauses if pause < 30 * 0.9] == []


def test_several_requests_are_under_way_and_their_responses_in_order() -> None:
    together, others = threading.Barrier(chunking.WINDOW), threading.Event()

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        together.wait(timeout=60)  # breaks unless that many calls wait at once
        if oip.ModelInferRequest.FromString(data).raw_input_contents[0][:4] == bytes(4):
            others.wait(timeout=60)  # the first gets its response last
        else:
            others.set()
        return echo(data, context)

    rows = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)
    with responding(response) as url, Client(url) as client:
        model = replace(MODEL, max_batch_size=2)
        parts = [response.outputs["y"] for response in chunking.stream(client, model, iter([rows]))]
    assert [len(part) for part in parts] == [2] * 8
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_requests_stay_below_the_message_limit() -> None:
    sizes: list[int] = []

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        sizes.append(len(data))
        return echo(data, context)

    rows = np.ones((1_000_000, 3), np.float32)  # 12 MB
    with responding(response) as url, Client(url) as client:
        assert len(chunked.infer(client, MODEL, rows).outputs["y"]) == len(rows)
    assert max(sizes) < 4 * 2**20  # gRPC's default: the server above would have refused more
    assert len(sizes) == 4
