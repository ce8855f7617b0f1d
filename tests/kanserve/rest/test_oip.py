"""Tests of `rest/oip.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http.aio

from tests.kanserve.conftest import WAYS
from tests.kanserve.rest.test_application import given
from tests.support import toy_model
from tests.support.http_client import ROWS, infer, running
from tests.support.server_process import Server

SPECIAL = np.array([[0.1, -0.0, 1e-45], [3.4028235e38, 1.1754944e-38, 16777217.0], [1 / 3, np.pi, -1e-7]], np.float32)


@pytest.fixture(scope="module", params=WAYS)
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from running(request.param, tmp_path_factory.mktemp("web"))


def test_what_the_server_and_its_models_are(web: Server) -> None:
    with tritonclient.http.InferenceServerClient(web.http) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("toy")
        assert client.is_model_ready("toy", "1")
        assert client.get_server_metadata()["name"] == "kanserve"
        metadata = client.get_model_metadata("toy")
        assert metadata["versions"] == ["1", "2"]
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
        config = client.get_model_config("toy", "1")
        assert config["max_batch_size"] == toy_model.BATCH
        assert config["input"][0]["dims"] == [3]
        index = client.get_model_repository_index()
        assert {"name": "toy", "version": "1", "state": "READY"} in index
        statistics = client.get_inference_statistics("toy", "1")["model_stats"]
        assert [item["version"] for item in statistics] == ["1"]
        assert isinstance(statistics[0]["inference_stats"]["success"]["count"], int)
        assert {item["name"] for item in client.get_inference_statistics()["model_stats"]} == {"toy", "toy64"}


@pytest.mark.parametrize(
    ("sent", "wanted", "packing"),
    [(True, True, None), (True, False, "gzip"), (False, True, "deflate"), (False, False, None), (False, False, "gzip")],
)
def test_answers_are_those_of_grpc_bit_for_bit(web: Server, sent: bool, wanted: bool, packing: str | None) -> None:
    rows = np.tile(SPECIAL, (20, 1))
    output = tritonclient.http.InferRequestedOutput("y", binary_data=wanted)
    with tritonclient.http.InferenceServerClient(web.http) as client:
        answer = client.infer(
            "toy",
            given(rows, binary=sent),
            outputs=[output],
            request_id="mine",
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
        )
    assert answer.get_response()["id"] == "mine"
    assert answer.as_numpy("y").tobytes() == web.infer(rows).tobytes()


def test_a_body_of_nothing_but_bytes(web: Server) -> None:
    row = ROWS[:1]
    reply = infer(web, row.tobytes(), inference_header_content_length="0")
    length = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.body[:length])["outputs"][0]["shape"] == [1, 2]
    assert reply.body[length:] == web.infer(row).tobytes()
    refused = infer(web, ROWS.tobytes(), inference_header_content_length="0")
    assert (refused.status, refused.json["error"].split(". ")[-1]) == (400, "Expected 12, got 48")
    assert infer(web, row.tobytes(), "nope", inference_header_content_length="0").status == 404
