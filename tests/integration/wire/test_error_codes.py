"""Codes and hints of errors on the wire: trailers, HTTP bodies, items of a stream, access log, clients and commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve import AsyncClient, Client, ClientError, InvalidInput
from kanserve.client.control import promote
from kanserve.grpc_api.call_context import HINT_BYTES
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.support import bad_requests, http_client, toy_model
from tests.support.command_line import kanserve
from tests.support.server_process import INFERENCE, KAN, SHARED, Server, request, serving

ROWS = np.zeros((2, 3), np.float32)


@pytest.fixture(scope="module", params=SHARED)
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with gRPC and HTTP."""
    yield from http_client.running(request.param, tmp_path_factory.mktemp("web"), access_log="all")


def edges(**fields: object) -> bytes:
    supplied = {"model_name": "toy", "row_count": 2, "rows": ROWS.tobytes(), **fields}
    return kan_pb2.QueryEdgesRequest(**supplied).SerializeToString()


UNKNOWN = request(ROWS, "nope").SerializeToString()
# Method, request, error code, hint.
FAILED: dict[str, tuple[str, bytes, str, str]] = {
    "model": (f"{INFERENCE}ModelInfer", UNKNOWN, "model-unknown", ""),
    "layer": (f"{KAN}QueryEdges", edges(layer_names=["none"]), "layer-unknown", ""),
    "number": (f"{KAN}QueryEdges", edges(layers=[0], sources=[3]), "selection-unknown", "send numbers from 0 to 2"),
    "stream": (f"{KAN}StreamEdges", edges(layers=[0, 0]), "selection-duplicate", "name each layer once"),
    "method": (f"{INFERENCE}Nothing", b"", "method-unknown", ""),
    "message": (f"{INFERENCE}ModelInfer", b"\xff\xff", "message-malformed", ""),
}


@pytest.mark.parametrize("case", FAILED.values(), ids=FAILED)
def test_a_failed_call_has_the_code_and_the_hint_as_trailers(web: Server, case: tuple[str, bytes, str, str]) -> None:
    path, data, code, hint = case
    with pytest.raises(grpc.RpcError) as caught:
        list(web.channel.unary_stream(path)(data, timeout=60))
    assert bad_requests.code(caught.value) == code
    assert bad_requests.hint(caught.value)
    assert not hint or bad_requests.hint(caught.value) == hint
    raw = dict(caught.value.trailing_metadata())
    assert all(value.isascii() and value.isprintable() for value in (raw[bad_requests.CODE], raw[bad_requests.HELP]))


def test_a_call_that_succeeds_has_neither(web: Server) -> None:
    _, call = web.channel.unary_unary(f"{INFERENCE}ModelInfer").with_call(request(ROWS).SerializeToString(), timeout=60)
    assert not {bad_requests.CODE, bad_requests.HELP} & set(dict(call.trailing_metadata()))


def test_an_http_error_has_both_in_its_body(web: Server) -> None:
    reply = http_client.ask(web, "/v1/kan/models/toy/edges", {"rows": ROWS.tolist(), "layers": [0], "sources": [3]})
    assert reply.status == 400
    assert reply.json == {
        "error": "unknown source 3: layer 0 has 3 sources",
        "code": "selection-unknown",
        "help": "send numbers from 0 to 2",
        "request_id": reply.headers["x-request-id"],
    }
    reply = http_client.infer(web, b"{")
    assert (reply.status, *bad_requests.of_body(reply.body)) == (400, "json-invalid", reply.json["help"])
    reply = http_client.ask(web, "/v2/nothing")
    assert (reply.status, reply.json["code"]) == (404, "route-not-found")


def test_an_item_of_a_stream_has_both_as_parameters(web: Server) -> None:
    messages = [UNKNOWN, request(ROWS).SerializeToString()]
    stream = web.channel.stream_stream(f"{INFERENCE}ModelStreamInfer")
    failed, good = (pb.ModelStreamInferResponse.FromString(item) for item in stream(iter(messages), timeout=60))
    assert "unknown model: 'nope'" in failed.error_message
    parameters = {name: value.string_param for name, value in failed.infer_response.parameters.items()}
    assert parameters["kan.error_code"] == "model-unknown"
    assert parameters["kan.error_help"]
    assert not good.error_message
    assert "kan.error_code" not in good.infer_response.parameters
    (line,) = logged(web, "inference.GRPCInferenceService/ModelStreamInfer")
    assert line["error_code"] == "model-unknown"


def logged(server: Server, method: str, **facts: str) -> list[dict[str, Any]]:
    """The access log lines of a method with these facts."""
    return server.logged("request_completed", method=method, **facts)


def test_the_line_of_a_failed_call_has_the_code(web: Server) -> None:
    data = kan_pb2.GetCurvesRequest(model_name="toy", points=1).SerializeToString()
    with pytest.raises(grpc.RpcError):
        web.call(f"{KAN}GetCurves", data, metadata=(("x-request-id", "curves"),))
    http_client.infer(web, {"inputs": []}, "nope", x_request_id="infer")
    web.infer(ROWS)
    (curves,) = logged(web, "kanserve.v1.KanService/GetCurves", request_id="curves")
    assert (curves["code"], curves["error_code"]) == ("INVALID_ARGUMENT", "curve-points-invalid")
    (unknown,) = logged(web, "POST /v2/models/{name}/infer", request_id="infer")
    assert unknown["error_code"] == "model-unknown"
    good = logged(web, "inference.GRPCInferenceService/ModelInfer", code="OK")
    assert not any("error_code" in line for line in good)


def test_both_clients_have_the_code_and_the_hint(web: Server) -> None:
    async def ask() -> None:
        async with AsyncClient(web.address) as client:
            await client.curves("toy", points=1)

    with Client(web.address) as client, pytest.raises(InvalidInput) as caught:
        client.curves("toy", points=1)
    with pytest.raises(InvalidInput) as awaited:
        asyncio.run(ask())
    for error in (caught.value, awaited.value):
        assert (error.code, error.error_code) == ("INVALID_ARGUMENT", "curve-points-invalid")
        assert error.hint == "send a number of points in this range, or 0 for the default"
        assert str(error) == "points is 1, expected 2 to 1024"


def test_a_command_shows_the_code_and_the_hint_of_the_server(web: Server) -> None:
    done = kanserve("curves", "toy", "--layer", "none", "--url", web.address, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"], error["code"]) == (2, "InvalidInput", "layer-unknown")
    assert error["hint"] == "send a name or a number of a layer of the model"
    plain = kanserve("curves", "toy", "--layer", "none", "--url", web.address).stderr
    assert f"error[layer-unknown]: {error['message']}\n  help: {error['hint']}\n" in plain


def test_a_model_that_fails_to_load_has_both_in_the_log(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path)
    (directory / "model.onnx").write_bytes(b"no graph")
    with serving(tmp_path) as server, Client(server.address) as client:
        (line,) = server.logged("model_load_failed")
        (entry,) = client.index()
        assert line["error_code"] == "file-size-differs"
        assert entry.reason == f"{line['reason']}; {line['help']}"
        with pytest.raises(ClientError) as caught:
            promote(client, "toy", "1")
        assert caught.value.error_code


def test_a_hint_is_bounded(web: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        web.call(f"{KAN}DescribeModel", kan_pb2.DescribeModelRequest(model_name="\u00e9" * 9000).SerializeToString())
    assert bad_requests.code(caught.value) == "model-unknown"
    assert len(bad_requests.hint(caught.value).encode()) <= HINT_BYTES
