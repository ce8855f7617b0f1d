"""Tests of `insight/curves.py`."""

from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.client.sync import Client
from kanserve.pb import kan_pb2
from tests.support import toy_model
from tests.support.bad_requests import refused
from tests.support.server_process import KAN, Server


def ask(server: Server, **fields: Any) -> list[kan_pb2.CurveBlock]:
    message = kan_pb2.GetCurvesRequest(**{"model_name": "toy", **fields})
    responses = server.channel.unary_stream(f"{KAN}GetCurves")(message.SerializeToString(), timeout=60)
    return [kan_pb2.CurveBlock.FromString(response) for response in responses]


def array(block: kan_pb2.CurveBlock, field: str) -> np.ndarray:
    shape = (len(block.sources), len(block.destinations), block.points)
    return np.frombuffer(getattr(block, field), "<f4").reshape(shape)


WEIGHTS = (toy_model.W0, toy_model.W1)


@pytest.mark.parametrize(("model", "tolerance"), [("toy", 1e-6), ("toy64", 1e-7)])
def test_every_edge_over_its_domain(server: Server, model: str, tolerance: float) -> None:
    blocks = ask(server, model_name=model, derivative=True)
    assert [block.layer for block in blocks] == [0, 1]
    for block, weights in zip(blocks, WEIGHTS, strict=True):
        assert (block.model_name, len(block.digest), block.points) == (model, 64, 101)
        assert list(block.sources) == list(range(len(weights)))
        x = np.frombuffer(block.x, "<f8").reshape(len(weights), 101)
        curve = np.tanh(x) if block.layer == 0 else x
        steep = 1 - np.tanh(x) ** 2 if block.layer == 0 else np.ones_like(x)
        np.testing.assert_allclose(array(block, "phi"), curve[:, None] * weights[:, :, None], atol=tolerance)
        np.testing.assert_allclose(array(block, "derivative"), steep[:, None] * weights[:, :, None], atol=2e-3)
        assert set(block.domains) == {"reference"}


def test_a_selection_over_a_range_of_the_caller_s(server: Server) -> None:
    (block,) = ask(server, layers=[0], sources=[2, 0], destinations=[3], points=5, low=-2, high=2)
    x = np.frombuffer(block.x, "<f8").reshape(2, 5)
    np.testing.assert_array_equal(x, [[-2, -1, 0, 1, 2]] * 2)
    np.testing.assert_allclose(array(block, "phi"), (np.tanh(x) * toy_model.W0[[2, 0], 3:])[:, None], atol=1e-6)
    assert (list(block.sources), list(block.destinations)) == ([2, 0], [3])
    assert (list(block.domains), block.derivative) == (["requested", "requested"], b"")


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"model_name": "none"}, grpc.StatusCode.NOT_FOUND, "unknown model"),
        ({"layers": [9]}, grpc.StatusCode.INVALID_ARGUMENT, "unknown layer 9: the model has 2 layers"),
        ({"layer_names": ["head"]}, grpc.StatusCode.INVALID_ARGUMENT, "unknown layer 'head'"),
        ({"sources": [3], "layers": [0]}, grpc.StatusCode.INVALID_ARGUMENT, "unknown source 3"),
        ({"points": 1}, grpc.StatusCode.INVALID_ARGUMENT, "points is 1, expected 2 to 1024"),
        ({"points": 1025}, grpc.StatusCode.INVALID_ARGUMENT, "points is 1025, expected 2 to 1024"),
        ({"low": 1.0}, grpc.StatusCode.INVALID_ARGUMENT, "only one of low and high is set"),
        ({"low": 1.0, "high": 1.0}, grpc.StatusCode.INVALID_ARGUMENT, "the range of the curves is 1 to 1, expected"),
        ({"low": 0.0, "high": np.inf}, grpc.StatusCode.INVALID_ARGUMENT, "is 0 to inf, expected two finite numbers"),
        ({"low": np.nan, "high": 1.0}, grpc.StatusCode.INVALID_ARGUMENT, "the range of the curves is nan to 1"),
        ({"low": -1e38, "high": 1e38}, grpc.StatusCode.INVALID_ARGUMENT, "the range of the curves is -1e+38 to 1e+38"),
    ],
)
def test_no_curve_is_refused_in_words(
    server: Server, fields: dict[str, object], code: grpc.StatusCode, text: str
) -> None:
    with refused(code, text):
        ask(server, **fields)


def test_the_extremes_of_each_curve(server: Server) -> None:
    for at, block in enumerate(ask(server, low=-2, high=1.5, points=8, extrema=True)):
        where = np.frombuffer(block.extrema_x, "<f8").reshape(len(block.sources), -1, 2)
        value = np.frombuffer(block.extrema, "<f4").reshape(where.shape)
        weights, ends = WEIGHTS[at], np.array([-2, 1.5])
        moves = weights != 0
        expected_x = np.where(weights[..., None] < 0, ends[::-1], ends)
        np.testing.assert_allclose(where[moves], expected_x[moves], atol=1e-6)
        expected = np.sort((np.tanh(ends), ends)[at] * weights[..., None], axis=-1)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    with Client(server.address) as client:
        first, _ = client.curves("toy", span=(-2, 1.5), extrema=True)
        assert first.extrema is not None
        assert first.extrema[0].shape == first.extrema[1].shape == (3, 4, 2)
        assert client.curves("toy", span=(-2, 1.5))[0].extrema is None
