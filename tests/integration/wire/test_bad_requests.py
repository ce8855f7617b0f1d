"""Invalid gRPC requests: status code and message of each, and a server that keeps serving."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.support import bad_requests, toy_model
from tests.support.bad_requests import ROWS, Wrong, typed
from tests.support.server_process import INFERENCE, KAN, Server, request

Code = grpc.StatusCode


def edges(**fields: object) -> kan_pb2.QueryEdgesRequest:
    supplied = {"model_name": "toy", "rows": ROWS.tobytes(), "row_count": 2, **fields}
    return kan_pb2.QueryEdgesRequest(**supplied)


INVALID, EXHAUSTED = Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED
EDGES: list[tuple[dict[str, Any], Code, str]] = [
    ({"model_name": "nope"}, Code.NOT_FOUND, "Request for unknown model: 'nope' is not found"),
    ({"model_version": "9"}, Code.NOT_FOUND, "version 9 is not found"),
    ({"row_count": 5000, "rows": b"\0" * 60000}, EXHAUSTED, "the query has 5000 rows, expected at most 4096"),
    ({"row_count": 1000, "rows": b"\0" * 12000}, EXHAUSTED, "the limit is 65536"),
    ({"row_count": 3}, INVALID, "rows has 24 bytes, expected 36 for 3 rows"),
    ({"layers": [2]}, INVALID, "unknown layer 2: the model has 2 layers"),
    ({"per_row": True}, INVALID, "per_row without top_k"),
    ({"per_row": True, "top_k": 1, "min_magnitude": 1}, INVALID, "min_magnitude cannot be combined with per_row"),
    ({"min_magnitude": float("nan")}, INVALID, "min_magnitude is nan, expected a number of 0 or more"),
    ({"reductions": ["median"]}, INVALID, "unknown reduction 'median'"),
    ({"reductions": ["mean", "mean"]}, INVALID, "a reduction is named twice"),
    (
        {"reductions": ["mean"], "residual": True},
        INVALID,
        "reductions cannot be combined with residual, nodes or per_row",
    ),
    ({"quantiles": [0.5]}, INVALID, "quantiles without the reduction 'quantiles'"),
    ({"reductions": ["quantiles"], "quantiles": [1.5]}, INVALID, "invalid quantiles, expected at most 101 numbers"),
    ({"reductions": ["histogram"], "bins": 1000}, INVALID, "bins is 1000, expected 1 to 256"),
    ({"path_from": 0}, INVALID, "only one of path_from and path_to is set, expected both or none"),
    ({"path_from": 3, "path_to": 0}, INVALID, "unknown input 3: the model has 3 inputs"),
    ({"path_from": 0, "path_to": 2}, INVALID, "unknown output 2: the model has 2 outputs"),
    ({"path_from": 0, "path_to": 0, "sources": [1]}, INVALID, "a path cannot be combined with sources or destinations"),
]


@pytest.fixture(autouse=True)
def _still_serving(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        np.testing.assert_allclose(request.getfixturevalue("server").infer(ROWS), toy_model.outputs(ROWS))


def refused(server: Server, path: str, data: bytes) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        server.call(path, data)
    details = caught.value.details()
    assert details
    assert not any(word in details for word in ("Traceback", "Error", "/work", "/tmp", "site-packages"))
    return caught.value


@pytest.mark.parametrize("case", bad_requests.CASES, ids=lambda case: case.name)
def test_the_table(server: Server, case: Wrong) -> None:
    error = refused(server, INFERENCE + case.method, case.message.SerializeToString())
    assert error.code() is case.code
    assert case.said(error.details()), error.details()


@pytest.mark.parametrize(("fields", "code", "text"), EDGES, ids=lambda value: str(value)[:40])
def test_edge_queries(server: Server, fields: dict[str, Any], code: Code, text: str) -> None:
    error = refused(server, f"{KAN}QueryEdges", edges(**fields).SerializeToString())
    assert error.code() is code
    assert text in error.details()


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("ModelInfer", b"\xff" * 20),
        ("ModelInfer", b"\x0a\x05ab"),  # shorter than it says
        ("ModelInfer", b"\x0a\x02\xff\xfe"),  # not UTF-8
        ("ModelStatistics", b"\x0a\x05ab"),
        ("RepositoryIndex", b"\x0a\x05ab"),
        ("ServerReady", b"\xff" * 20),
        ("ServerLive", b"\x07"),  # an illegal tag
    ],
)
def test_garbage(server: Server, method: str, data: bytes) -> None:
    error = refused(server, INFERENCE + method, data)
    assert error.code() is Code.INVALID_ARGUMENT
    assert error.details() == f"malformed {method}Request"


def test_a_model_that_is_not_there_is_not_ready(server: Server) -> None:
    for name, version in (("nope", ""), ("", ""), ("toy", "9"), ("toy", "0")):
        data = pb.ModelReadyRequest(name=name, version=version).SerializeToString()
        assert not pb.ModelReadyResponse.FromString(server.call(f"{INFERENCE}ModelReady", data)).ready


def test_zero_rows_are_a_valid_empty_response(server: Server) -> None:
    for message in (request(np.zeros((0, 3), np.float32)), typed()):
        message.inputs[0].shape[:] = [0, 3]
        response = pb.ModelInferResponse.FromString(server.call(f"{INFERENCE}ModelInfer", message.SerializeToString()))
        assert list(response.outputs[0].shape) == [0, 2]
        assert list(response.raw_output_contents) == [b""]
