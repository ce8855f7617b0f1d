"""Tests of `client/calls.py`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from kanserve.client import calls
from kanserve.client.errors import NotSupported, ServerFailed
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.types import DTYPES, TensorInfo
from tests.support.command_line import Server
from tests.support.http_client import responding
from tests.support.named_models import ROWS


@pytest.mark.parametrize(
    ("response", "state"),
    [(b"\x08\x01", "SERVING"), (b"\x08\x02", "NOT_SERVING"), (b"\x08\x03", "SERVICE_UNKNOWN"), (b"", "UNKNOWN")],
)
def test_the_hand_written_health_message(response: bytes, state: str) -> None:
    requested: list[bytes] = []
    with responding(lambda data, _: requested.append(data) or response) as url, Client(url) as client:
        assert client.health("digits") == state
    assert requested == [health_pb2.HealthCheckRequest(service="digits").SerializeToString()]
    status = health_pb2.HealthCheckResponse.FromString(response).status
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(status) == state


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (33, 4), (), (200, 30)])
@pytest.mark.parametrize("parameters", [{}, {"kan.coverage": True}])
def test_the_joined_inference_request_is_the_message(shape: tuple[int, ...], parameters: dict[str, bool]) -> None:
    tensors = TensorInfo("x", "FP32", (-1, 4)), TensorInfo("z", "UINT8", (-1, 4))
    rows = {tensor.name: np.ones(shape, DTYPES[tensor.datatype]) for tensor in tensors}
    expected = oip.ModelInferRequest(model_name="m", model_version="2", outputs=[{"name": "y"}])
    for tensor in tensors:
        expected.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        expected.raw_input_contents.append(rows[tensor.name].tobytes())
    for name, value in parameters.items():
        expected.parameters[name].bool_param = value
    for _ in range(2):  # the second one has the cached head
        call = calls.inference(tensors, rows, model="m", version=2, outputs=["y"], parameters=parameters)
        assert call.data == expected.SerializeToString()


KINDS: dict[str, Callable[[Any], Any]] = {
    "describe": lambda _: calls.describe("named"),
    "edges": lambda d: calls.edges(d, ROWS[:2], layers=(0, 1), top_k=2, residual=True, nodes=True, reductions=()),
    "reductions": lambda d: calls.edges(d, ROWS[:2], reductions=("mean",)),
    "explain": lambda d: calls.explain(d, ROWS[:2], path_top_k=1),
    "coverage": lambda d: calls.coverage(d, ROWS[:2]),
    "scores": lambda d: calls.scores(d, ROWS[:2]),
    "drift": lambda d: calls.drift(d, ROWS[:300]),
    "curves": lambda _: calls.curves("named", points=3, derivative=True, extrema=True),
}


def damages(message: Message) -> Iterator[None]:
    """Remove or lengthen one field of a message at a time, in place."""
    kept = type(message).FromString(message.SerializeToString())
    for field, value in kept.ListFields():
        for other in (None, value + b"\0" if isinstance(value, bytes) else None):
            message.ClearField(field.name)
            if other is not None:
                setattr(message, field.name, other)
            yield
            message.CopyFrom(kept)
        parts = getattr(message, field.name)
        for part in [parts] if isinstance(parts, Message) else parts if hasattr(parts, "add") else ():
            yield from damages(part)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_response_is_a_client_error_or_has_all_rows(server: Server, kind: str) -> None:
    with Client(server.url) as client:
        call = KINDS[kind](client.describe("named"))
        got = client._send(call)(call.data)
        message, malformed = next(iter(got)) if call.stream else got, 0
        for _ in damages(message):
            try:
                result = client._result(call, [message] if call.stream else message)
            except ServerFailed as error:
                malformed += error.error_code == "response-malformed"
            except NotSupported:  # such as drift without the rows of its baseline
                continue
            else:
                assert kind != "explain" or len(result.contributions) == len(result.predictions) == 2
                assert kind != "edges" or [len(layer.values) for layer in result] == [2, 2]
    assert malformed or kind == "describe"
