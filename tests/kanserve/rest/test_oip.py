"""Tests of `rest/oip.py`."""

import json

import tritonclient.http

from kanexport.shared import manifest
from tests.kanserve.rest.test_application import web as web
from tests.support import toy_model
from tests.support.http_client import ROWS, infer
from tests.support.server_process import Server


def test_what_the_server_and_its_models_are(web: Server) -> None:
    with tritonclient.http.InferenceServerClient(web.http) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("toy")
        assert client.is_model_ready("toy", "1")
        server = client.get_server_metadata()
        assert (server["name"], {"kan_interpret", "kan_coverage"} <= set(server["extensions"])) == ("kanserve", True)
        metadata = client.get_model_metadata("toy")
        assert metadata["versions"] == ["1", "2"]
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
        config = client.get_model_config("toy", "1")
        assert config["max_batch_size"] == toy_model.BATCH
        assert config["input"][0]["dims"] == [3]
        basis = manifest.VERIFICATION_BASES[manifest.READING]
        facts = {"kan.family": "toy", "kan.verification": basis}
        assert facts.items() <= {key: value["string_value"] for key, value in config["parameters"].items()}.items()
        index = client.get_model_repository_index()
        assert {"name": "toy", "version": "1", "state": "READY"} in index
        statistics = client.get_inference_statistics("toy", "1")["model_stats"]
        assert [item["version"] for item in statistics] == ["1"]
        assert isinstance(statistics[0]["inference_stats"]["success"]["count"], int)
        assert {item["name"] for item in client.get_inference_statistics()["model_stats"]} == {"toy", "toy64"}


def test_a_body_of_nothing_but_bytes(web: Server) -> None:
    row = ROWS[:1]
    reply = infer(web, row.tobytes(), inference_header_content_length="0")
    length = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.body[:length])["outputs"][0]["shape"] == [1, 2]
    assert reply.body[length:] == web.infer(row).tobytes()
    refused = infer(web, ROWS.tobytes(), inference_header_content_length="0")
    assert (refused.status, refused.json["error"].split(". ")[-1]) == (400, "Expected 12, got 48")
    assert infer(web, row.tobytes(), "nope", inference_header_content_length="0").status == 404
