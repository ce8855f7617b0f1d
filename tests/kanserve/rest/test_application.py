"""HTTP API next to gRPC: every route, with Triton's clients, curl and raw requests, on each transport."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio

from tests.kanserve.conftest import WAYS
from tests.support.http_client import ROWS, ask, infer, running, tensor
from tests.support.server_process import Server
from tests.support.wait import until


@pytest.fixture(scope="module", params=WAYS)
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from running(request.param, tmp_path_factory.mktemp("web"))


def given(rows: np.ndarray, *, binary: bool) -> list[Any]:
    item = tritonclient.http.InferInput("x", list(rows.shape), "FP32" if rows.dtype == np.float32 else "FP64")
    item.set_data_from_numpy(rows, binary_data=binary)
    return [item]


def test_float64_survives_json(web: Server) -> None:
    rows = np.array([[0.1, 1e-308, 5e-324], [1 / 3, 1e300, -0.0]])
    with tritonclient.http.InferenceServerClient(web.http) as client:
        answers = [
            client.infer(
                "toy64", given(rows, binary=binary), outputs=[tritonclient.http.InferRequestedOutput("y", binary)]
            )
            for binary in (True, False)
        ]
    raw, typed = (answer.as_numpy("y") for answer in answers)
    assert raw.tobytes() == typed.tobytes()


def test_triton_s_asynchronous_client(web: Server) -> None:
    async def talk() -> np.ndarray:
        async with tritonclient.http.aio.InferenceServerClient(web.http) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("toy"))["name"] == "toy"
            answer = await client.infer(
                "toy",
                given(ROWS, binary=True),
                model_version="1",
                request_compression_algorithm="gzip",
                response_compression_algorithm="deflate",
            )
            assert answer.get_response()["model_version"] == "1"
            with pytest.raises(Exception, match="'nope' is not found"):
                await client.infer("nope", given(ROWS, binary=True))
            return answer.as_numpy("y")

    assert asyncio.run(talk()).tobytes() == web.infer(ROWS).tobytes()


def test_numbers_that_json_lacks_are_words(web: Server) -> None:
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2,3],"data":[NaN,0,0,Infinity,-Infinity,0]}]}'
    y = np.array(infer(web, body).json["outputs"][0]["data"], np.float32).reshape(2, 2)
    rows = np.array([[np.nan, 0, 0], [np.inf, -np.inf, 0]], np.float32)
    for spaced in (body.replace(b",", b", "), body.replace(b"[NaN", b"[\n NaN"), b'{"a,NaN,b": "x NaN", ' + body[1:]):
        assert infer(web, spaced).body == infer(web, body).body
    np.testing.assert_array_equal(y, web.infer(rows))


def test_nested_and_empty_lists(web: Server) -> None:
    nested = infer(web, {"inputs": [{**tensor(), "data": ROWS.tolist()}]})
    assert nested.json == infer(web, {"inputs": [tensor()]}).json
    empty = infer(web, {"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 3]}]})
    assert empty.json["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [0, 2], "data": []}]


def test_bytes_behind_the_json(web: Server) -> None:
    """By hand, since Triton's client never mixes the two."""
    head = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [4, 3], "parameters": {"binary_data_size": ROWS.nbytes}}],
        "parameters": {"binary_data_output": True, "timeout": 10**7, "priority": 1, "own": "word"},
    }
    text = json.dumps(head).encode()
    reply = infer(web, text + ROWS.tobytes(), inference_header_content_length=str(len(text)))
    length = int(reply.headers["inference-header-content-length"])
    output = json.loads(reply.body[:length])["outputs"][0]
    assert output["parameters"]["binary_data_size"] == len(reply.body) - length
    assert reply.body[length:] == web.infer(ROWS).tobytes()


def test_ids_are_echoed_and_logged(web: Server) -> None:
    assert ask(web, "/v2/models/nope", x_request_id="followed").headers["x-request-id"] == "followed"
    until(lambda: any(line.get("request_id") == "followed" for line in web.lines()))
    (line,) = [line for line in web.lines() if line.get("request_id") == "followed"]
    assert (line["method"], line["code"]) == ("GET /v2/models/{name}", "NOT_FOUND")


def test_probes(web: Server) -> None:
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/toy/ready"):
        assert ask(web, path).status == 200
        assert ask(web, path, method="HEAD").status == 200
        assert not ask(web, path, method="HEAD").body


def test_metrics_on_the_shared_port(web: Server) -> None:
    infer(web, {"inputs": [tensor()]})
    series = 'http_requests_total{handler="/v2/models/{name}/infer",method="POST",status="200"} '
    until(lambda: series in ask(web, "/metrics").body.decode())  # the server counts a request after its response
    for accepted, encoding, read in (
        ("gzip", "gzip", gzip.decompress),
        ("deflate;q=0.5, br", "deflate", zlib.decompress),
        ("br", "", bytes),
    ):
        reply = ask(web, "/metrics", accept_encoding=accepted)
        assert reply.headers.get("content-encoding", "") == encoding
        assert series in read(reply.body).decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge"])
def test_curl(web: Server, protocol: str) -> None:
    command = ["curl", "-sS", "--fail-with-body", protocol, f"http://{web.http}/v2/models/toy/infer"]
    done = subprocess.run([*command, "-d", json.dumps({"inputs": [tensor()]})], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["shape"] == [4, 2]
