"""HTTP server-sent events for statistics, and HTTP responses with binary arrays."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support import bad_requests, http_client, toy_model
from tests.support.http_client import Reply, ask
from tests.support.server_process import Server
from tests.support.tiers import full

pytest.importorskip("starlette")
PACKED = "application/octet-stream"


WAYS = ["asgi", *(pytest.param(way, marks=full("second transport")) for way in http_client.WAYS[1:])]
web = http_client.served(WAYS, "repository", max_typed_contents_bytes=2000, max_watch_streams=2)


@contextlib.contextmanager
def watching(server: Server, query: str) -> Iterator[Any]:
    """A response whose events come when they do."""
    connection = http.client.HTTPConnection(server.http, timeout=60)
    connection.request("GET", f"/v1/kan/models/toy/watch{query}")
    response = connection.getresponse()
    try:
        yield response
    finally:
        response.close()  # the socket is open until both are
        connection.close()


def event(response: Any) -> dict[str, Any]:
    line = response.readline()
    assert line.startswith(b"data: ")
    assert response.readline() == b"\n"
    return json.loads(line.removeprefix(b"data: "))


def test_updates_come_one_by_one_and_say_when_they_end(web: Server) -> None:
    for interval in (1, 10, 40):  # until the rows arrive between two updates
        with watching(web, f"?source=total&interval={interval}&updates=2") as response:
            assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
            first = event(response)
            web.infer(np.zeros((7, 3), np.float32))
            second = event(response)
            assert response.read() == b""
        if second["statistics"]["rows_seen"] >= first["statistics"]["rows_seen"] + 7:
            break
    assert first["end_reason"] == ""
    assert second["end_reason"] == "the watch has sent 2 updates"
    assert [len(node["mean"]) for node in first["statistics"]["nodes"]] == [3, 4, 2]
    assert second["statistics"]["rows_seen"] >= first["statistics"]["rows_seen"] + 7


REFUSED = {
    "?every=2": "unknown parameter 'every'",
    "?interval=often": "interval='often', expected a number",
    "?updates=-1": "updates='-1', expected an integer",
    "?interval=0.1": "interval is 0.1 seconds, expected 1 to 3600",
    "?source=never": "never",
    "?model_name=toy64": "unknown parameter 'model_name'",
}


def test_what_is_refused_has_its_status(web: Server) -> None:
    replies = {query: ask(web, f"/v1/kan/models/toy/watch{query}") for query in REFUSED}
    assert {reply.status for reply in replies.values()} == {400}
    assert [query for query, reply in replies.items() if REFUSED[query] not in reply.json["error"]] == []
    assert ask(web, "/v1/kan/models/nobody/watch").status == 404


def packed(reply: Reply) -> Any:
    """As a client reads it: the head, and each array at the offset in the head."""
    size = int(reply.headers["inference-header-content-length"])
    assert size % 8 == 0

    def read(result: dict[str, Any]) -> Any:
        if "$array" not in result:
            return result
        kind, at, *shape = result["$array"]
        assert at % 8 == 0
        return np.frombuffer(reply.body, kind, int(np.prod(shape)), size + at).reshape(shape)

    return json.loads(reply.body[:size], object_hook=read)


RESPONSES: dict[str, Any] = {
    "toy": None,
    "toy/versions/1/curves": {"layers": [0], "points": 9, "derivative": True},
    "toy/scores": {"rows": [[0, 1, 2], [1, 0, 1]]},
    "toy/edges": {"rows": [[0, 1, 2]], "layers": [1]},
    "toy64/explain": {"rows": [[0, 1, 2]]},
}


def test_packed_arrays_are_those_of_json(web: Server) -> None:
    for path, body in RESPONSES.items():
        reply = ask(web, f"/v1/kan/models/{path}", body, accept=PACKED, accept_encoding="gzip")
        assert (reply.status, reply.headers["content-type"]) == (200, PACKED)
        assert "content-encoding" not in reply.headers
        assert same(packed(reply), ask(web, f"/v1/kan/models/{path}", body).json)


def same(result: Any, expected: Any) -> bool:
    if isinstance(result, np.ndarray):
        np.testing.assert_array_equal(result, np.array(expected, result.dtype).reshape(result.shape))
        return True
    if isinstance(result, dict):
        assert result.keys() == expected.keys()
        return all(same(result[key], expected[key]) for key in result)
    if isinstance(result, list):
        return all(same(*pair) for pair in zip(result, expected, strict=True))
    return bool(result == expected)


def test_what_is_too_much_as_numbers_comes_as_bytes(web: Server) -> None:
    requested = {"layers": [0], "points": 101}
    refused = ask(web, "/v1/kan/models/toy/curves", requested)
    code, hint = bad_requests.of_body(refused.body)
    assert (refused.status, code) == (413, "json-response-too-large")
    assert "Accept: application/octet-stream" in hint
    (block,) = packed(ask(web, "/v1/kan/models/toy/curves", requested, accept=PACKED))["blocks"]
    np.testing.assert_allclose(block["phi"][0, 1], np.tanh(block["x"][0]) * toy_model.W0[0, 1], rtol=1e-5, atol=1e-6)
