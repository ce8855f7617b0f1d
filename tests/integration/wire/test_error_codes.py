"""Codes and hints of errors on the wire: trailers, HTTP bodies, items of a stream, access log, clients and commands."""

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve import AsyncClient, Client, InvalidInput
from kanserve.grpc_api.call_context import HINT_BYTES
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.support import bad_requests, http_client
from tests.support.server_process import INFERENCE, KAN, SHARED, Server, request

ROWS = np.zeros((2, 3), np.float32)


web = http_client.served(SHARED, "repository", access_log="all")


UNKNOWN = request(ROWS, "nope").SerializeToString()


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
    return server.logged("request_completed", method=method, **facts)


def test_the_line_of_a_failed_call_has_the_code_and_a_call_that_succeeds_has_none(web: Server) -> None:
    data = kan_pb2.GetCurvesRequest(model_name="toy", points=1).SerializeToString()
    with pytest.raises(grpc.RpcError):
        web.call(f"{KAN}GetCurves", data, metadata=(("x-request-id", "curves"),))
    http_client.infer(web, {"inputs": []}, "nope", x_request_id="infer")
    infer = web.channel.unary_unary(f"{INFERENCE}ModelInfer")
    _, call = infer.with_call(request(ROWS).SerializeToString(), timeout=60)
    assert not {bad_requests.CODE, bad_requests.HELP} & set(dict(call.trailing_metadata()))
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


def test_a_hint_is_bounded(web: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        web.call(f"{KAN}DescribeModel", kan_pb2.DescribeModelRequest(model_name="\u00e9" * 9000).SerializeToString())
    assert bad_requests.code(caught.value) == "model-unknown"
    assert len(bad_requests.hint(caught.value).encode()) <= HINT_BYTES
