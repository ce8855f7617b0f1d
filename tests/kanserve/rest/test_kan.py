"""KanService as JSON: the same numbers as gRPC on both transports, and rejected requests."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.client.sync import Client
from kanserve.pb import kan_pb2
from kanserve.rest import kan as arrays
from tests.kanserve.conftest import TRANSPORTS
from tests.support import http_client
from tests.support.server_process import Server
from tests.support.wait import until

ROWS = np.random.default_rng(8).normal(size=(5, 3)).astype(np.float32)


web = http_client.served(TRANSPORTS, "repository", max_typed_contents_bytes=20_000)


def good(server: Server, path: str, body: Any = None) -> Any:
    reply = http_client.ask(server, f"/v1/kan/models/{path}", body)
    assert reply.status == 200, reply.json
    return reply.json


@pytest.mark.parametrize(("path", "version"), [("toy/edges", "2"), ("toy/versions/1/edges", "1")])
def test_edges(web: Server, path: str, version: str) -> None:
    result = good(web, path, {"rows": ROWS.tolist(), "id": "j1", "residual": True, "nodes": True, "top_k": 2})
    assert (result["model_name"], result["model_version"], result["id"]) == ("toy", version, "j1")
    with Client(web.address) as client:
        expected = client.edges(client.describe("toy"), ROWS, residual=True, nodes=True, top_k=2)
    for layer, same in zip(result["layers"], expected, strict=True):
        for name in ("values", "residual", "nodes", "sources", "destinations"):
            np.testing.assert_array_equal(np.array(layer[name], np.float32), getattr(same, name))
    assert "per_row_sources" not in result["layers"][0]


def test_explanations(web: Server) -> None:
    rows = ROWS.astype(np.float64)
    requested = {"rows": rows.tolist(), "reference_rows": rows[:2].tolist(), "outputs": [1]}
    result = good(web, "toy64/explain", requested)
    with Client(web.address) as client:
        same = client.explain(client.describe("toy64"), rows, reference=rows[:2], outputs=[1])
    for name in ("contributions", "base", "predictions", "completeness_error"):
        np.testing.assert_array_equal(np.array(result[name]), getattr(same, name))
    assert (result["reference"], result["nodes_are_inputs"], result["nodes"]) == ("rows", True, 3)


def test_statistics_and_a_new_beginning(web: Server) -> None:
    web.infer(ROWS)
    until(lambda: good(web, "toy/statistics", {"source": "total"})["row_count"] >= 5)
    result = good(web, "toy/statistics", {"source": "total"})
    assert [len(node["mean"]) for node in result["nodes"]] == [3, 4, 2]
    assert np.shape(result["nodes"][0]["zones"]) == (3, 3)
    since = good(web, "toy/statistics/reset", {})["since"]
    assert since > result["since"]
    assert good(web, "toy/statistics", {"source": "total"})["row_count"] == 0


def test_what_is_refused(web: Server) -> None:
    for path, body, status, words in (
        ("toy/edges", {"rows": [[1, 2]]}, 400, "row 0 of 'x' has 2, expected a list of 3"),
        ("toy/edges", {"rows": [[1, 2, 3], 4]}, 400, "row 1 of 'x' has an integer"),
        ("toy/edges", {"rows": "none"}, 400, "a list with a list for each row"),
        ("toy/edges", {"rows": [[1, 2, "three"]]}, 400, "FP32 takes numbers, got a string"),
        ("toy/edges", {"rows": {"y": [[1, 2, 3]]}}, 400, "rows of the unknown input 'y'"),
        ("toy/edges", {"row": []}, 400, "unknown field 'row'"),
        ("toy/edges", {"inputs": []}, 400, "unknown field 'inputs'"),
        ("toy/edges", {"rows": [], "top_k": "many"}, 400, "Unable to parse the request"),
        ("toy/edges", {"rows": [], "layers": [7]}, 400, "unknown layer 7"),
        ("toy/edges", [], 400, "expected an object, got a list"),
        ("toy/edges", b"{", 400, "failed to parse the request JSON"),
        ("toy/explain", {}, 400, "the request has no rows"),
        ("toy/curves", {"points": 1}, 400, "points is 1, expected 2 to"),
        ("toy/curves", {"points": 1000}, 413, "the limit of numbers in JSON is 20000"),
        ("toy/edges", {"rows": np.zeros((400, 3)).tolist()}, 413, "the limit of numbers in JSON is 20000"),
        ("toy/statistics", {"rows": [[1, 2, 3]] * 3}, 400, "has no baseline to compare the rows with"),
        ("nobody/edges", {"rows": []}, 404, "nobody"),
        ("toy/versions/9/explain", {"rows": []}, 404, "9"),
    ):
        reply = http_client.ask(web, f"/v1/kan/models/{path}", body)
        assert (reply.status, words in reply.json["error"]) == (status, True), reply.json
        assert good(web, "toy/edges", {"rows": ROWS.tolist(), "layers": [1]})["layers"]


def test_every_packed_field_of_a_response_has_a_shape() -> None:
    """A new field of a response is in the JSON too, or this fails."""
    seen: set[str] = set()

    def look(message: Any) -> None:
        if message.name in seen:
            return
        seen.add(message.name)
        for field in message.fields:
            if field.type == field.TYPE_BYTES:
                assert field.name in arrays.PACKED[message.name], f"{message.name}.{field.name}"
            elif field.message_type is not None:
                look(field.message_type)

    responses = ("DescribeModel", "QueryEdges", "Explain", "EdgeScores", "GetStatistics")
    for name in responses:
        look(kan_pb2.DESCRIPTOR.message_types_by_name[f"{name}Response"])
    look(kan_pb2.DESCRIPTOR.message_types_by_name["CurveBlock"])


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.floats(), max_size=6), st.lists(st.floats(width=32), max_size=6))
def test_packed_numbers_survive(wide: list[float], narrow: list[float]) -> None:
    message = kan_pb2.NodeStatistics(
        layer=-1, psi=np.array(wide, "<f8").tobytes(), counts=np.arange(3, dtype="<u8").tobytes()
    )
    result = json.loads(orjson.dumps(arrays.plain(message)))
    np.testing.assert_array_equal(np.array(result.get("psi", []), np.float64), wide)
    assert (result["counts"], result["layer"]) == ([0, 1, 2], -1)
    scores = kan_pb2.LayerScores(nodes=np.array(narrow, "<f4").tobytes())
    reported = json.loads(orjson.dumps(arrays.plain(scores)))
    np.testing.assert_array_equal(np.array(reported.get("nodes", []), np.float32), np.array(narrow, np.float32))
