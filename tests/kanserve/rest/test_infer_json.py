"""Datatypes over HTTP, as bytes and as JSON, with identity graphs and Triton's client."""

import json

import numpy as np
import pytest
import tritonclient.http

from tests.integration.wire.test_datatypes import KINDS, bits, write
from tests.support.http_client import ask, served
from tests.support.server_process import Server

NO_JSON = ("FP16", "BF16")


plain = served(["asgi"], write=write, plain_onnx=True)


def echoed(server: Server, datatype: str, rows: np.ndarray, *, sent: bool, back: bool, packing: str) -> np.ndarray:
    """The rows as they come back; as bytes or as JSON, either way."""
    packs = {f"{what}_compression_algorithm": packing or None for what in ("request", "response")}
    item = tritonclient.http.InferInput("x", list(rows.shape), datatype)
    item.set_data_from_numpy(rows, binary_data=sent)
    wanted = [tritonclient.http.InferRequestedOutput("y0", binary_data=back)]
    with tritonclient.http.InferenceServerClient(server.http) as client:
        response = client.infer(datatype.lower(), [item], outputs=wanted, request_id="mine", **packs)
    assert response.get_response()["id"] == "mine"
    result = response.as_numpy("y0")
    if datatype == "BYTES" and not back:
        return np.array([text.encode() for text in result.ravel()], object).reshape(result.shape)
    return result


@pytest.mark.parametrize(
    ("sent", "back", "packing"),
    [(True, True, ""), (False, False, "gzip"), (True, False, "gzip"), (False, True, "deflate")],
)
def test_as_bytes_and_as_json(plain: Server, sent: bool, back: bool, packing: str) -> None:
    for datatype, (_, _, rows) in KINDS.items():
        if datatype in NO_JSON and not (sent and back):
            continue
        for array in (rows, np.concatenate([rows] * 20)):
            assert bits(echoed(plain, datatype, array, sent=sent, back=back, packing=packing)) == bits(array), datatype


@pytest.mark.parametrize("datatype", NO_JSON)
def test_what_json_does_not_carry(plain: Server, datatype: str) -> None:
    path = f"/v2/models/{datatype.lower()}/infer"
    item = {"name": "x", "datatype": datatype, "shape": [1, 3]}
    refused = ask(plain, path, {"inputs": [{**item, "data": [1, 2, 3]}]})
    assert (refused.status, refused.json["error"].partition(".")[0]) == (
        400,
        f"receiving {datatype} data via JSON is not supported",
    )
    text = json.dumps({"inputs": [{**item, "parameters": {"binary_data_size": 6}}]}).encode()
    refused = ask(plain, path, text + bytes(6), inference_header_content_length=str(len(text)))
    assert (refused.status, refused.json["error"].partition(".")[0]) == (
        400,
        f"sending {datatype} data via JSON is not supported",
    )


def test_strings(plain: Server) -> None:
    """Colons and quotes, which the search for doubled keys has to see through, and half of a character."""
    words = ['":"', "{}", "\\", "[", "日本", ""]
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2, 3], "data": words}]}
    assert ask(plain, "/v2/models/bytes/infer", body).json["outputs"][0]["data"] == words
    body["inputs"][0]["data"] = ["\ud800"] * 6
    assert ask(plain, "/v2/models/bytes/infer", body).status == 400
