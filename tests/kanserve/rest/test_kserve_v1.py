"""KServe's protocol V1: the numbers of ModelInfer and Explain as rows, and rejected requests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from kanserve.client.sync import Client
from tests.kanserve.conftest import TRANSPORTS
from tests.support import credentials, toy_model
from tests.support.http_client import ask, served
from tests.support.server_process import Server, serving

ROWS = np.random.default_rng(27).normal(size=(5, 3)).astype(np.float32)
LIMIT = 20_000


def write(folder: Path) -> None:
    """The toys, and plain graphs: `pair` has two inputs and outputs, `grid` an input of two axes, `whole` integers."""
    pair = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Neg", ["b"], ["less"])]
    neg, inputs, outputs = [helper.make_node("Neg", ["x"], ["y"])], [("a", ["B", 2]), ("b", ["B", 1])], ["B", 1]
    graphs = {
        "pair": toy_model.model(pair, inputs, [("sum", ["B", 2]), ("less", outputs)], [], TensorProto.FLOAT),
        "grid": toy_model.model(neg, [("x", ["B", 2, 3])], [("y", ["B", 2, 3])], [], TensorProto.FLOAT),
        "whole": toy_model.model(neg, [("x", ["B", 2])], [("y", ["B", 2])], [], TensorProto.INT64),
    }
    toy_model.write_graphs(folder, graphs)
    toy_model.write(folder)
    toy_model.write(folder, "toy64", datatype="FP64", tolerance=1e-12)


web = served(TRANSPORTS, write=write, plain_onnx=True, max_typed_contents_bytes=LIMIT)


def good(server: Server, path: str, instances: Any) -> Any:
    reply = ask(server, f"/v1/models/{path}", {"instances": instances})
    assert reply.status == 200, reply.body
    return reply.json


def test_a_model_is_ready(web: Server) -> None:
    assert ask(web, "/v1/models/toy").json == {"name": "toy", "ready": True}
    reply = ask(web, "/v1/models/nobody")
    assert (reply.status, reply.json["code"]) == (404, "model-unknown")


@pytest.mark.parametrize("form", [list, lambda row: {"x": list(row)}], ids=["lists", "objects"])
def test_predictions_are_those_of_infer(web: Server, form: Any) -> None:
    result = good(web, "toy:predict", [form(map(float, row)) for row in ROWS])
    assert list(result) == ["predictions"]
    np.testing.assert_array_equal(np.array(result["predictions"], np.float32), web.infer(ROWS))


def test_several_inputs_and_outputs_are_objects(web: Server) -> None:
    result = good(web, "pair:predict", [{"a": [1, 2], "b": [3]}, {"b": [-1], "a": [0.5, 0]}])
    assert result["predictions"] == [{"sum": [4, 5], "less": [-3]}, {"sum": [-0.5, -1], "less": [1]}]


def test_an_instance_may_have_more_axes_and_other_numbers(web: Server) -> None:
    rows = np.arange(12).reshape(2, 2, 3).tolist()
    assert good(web, "grid:predict", rows)["predictions"] == (-np.array(rows)).tolist()
    assert good(web, "whole:predict", [[2**60 + 1, -3]])["predictions"] == [[-(2**60) - 1, 3]]


@pytest.mark.parametrize("model", ["toy", "toy64"])
def test_explanations_are_those_of_explain(web: Server, model: str) -> None:
    rows = ROWS.astype(np.float64 if model == "toy64" else np.float32)
    result = good(web, f"{model}:explain", rows.tolist())
    with Client(web.address) as client:
        same = client.explain(client.describe(model), rows)
    assert (result["model_name"], result["method"], result["outputs"]) == (model, "rescale", [0, 1])
    assert len(result["explanations"]) == len(rows)
    for at, explanation in enumerate(result["explanations"]):
        np.testing.assert_array_equal(explanation["base"], same.base)
        np.testing.assert_array_equal(explanation["prediction"], same.predictions[at])
        np.testing.assert_array_equal(explanation["contributions"], same.contributions[at])
        total = np.array(explanation["base"]) + np.sum(explanation["contributions"], axis=0)
        np.testing.assert_allclose(total, explanation["prediction"], atol=1e-5)


def test_invalid_requests_are_rejected(web: Server) -> None:
    for path, body, status, words in (
        ("nobody:predict", {"instances": [[1]]}, 404, "nobody"),
        ("nobody:explain", {"instances": [[1]]}, 404, "nobody"),
        ("toy:predict", {}, 400, "'instances' is null, expected a list"),
        ("toy:predict", {"instances": []}, 400, "the request has no rows"),
        ("toy:predict", {"instances": [[1, 2, 3]], "rows": []}, 400, "unknown field 'rows'"),
        ("toy:predict", {"instances": {"x": 1}}, 400, "'instances' is an object, expected a list"),
        (
            "toy:predict",
            {"instances": [[1, 2, 3], [1, 2]]},
            400,
            "instance 1 of 'x' has 2 values, expected a list of 3",
        ),
        ("toy:predict", {"instances": [1, 2, 3]}, 400, "instance 0 of 'x' has an integer, expected a list of 3"),
        ("toy:predict", {"instances": [[1, 2, "a"]]}, 400, "takes numbers, got a string"),
        ("toy:predict", {"instances": [[1, 2, 3], {"x": [1, 2, 3]}]}, 400, "instance 1 of 'x' has an object"),
        ("toy:predict", {"instances": [{"y": [1, 2, 3]}]}, 400, "0 has y, expected an object with the inputs x"),
        ("pair:predict", {"instances": [[1, 2]]}, 400, "0 has a list, expected an object with the inputs a, b"),
        ("pair:predict", {"instances": [{"a": [1, 2]}]}, 400, "instance 0 has a, expected an object"),
        ("grid:predict", {"instances": [[[1, 2, 3], [1, 2]]]}, 400, "instance 0 of 'x' has 2 values"),
        ("grid:predict", {"instances": [[[0] * 3] * 2, [[0] * 2] * 3]}, 400, "instance 1 of 'x' has 3 values"),
        ("grid:explain", {"instances": [[[0] * 3] * 2]}, 400, "grid"),
        ("toy:predict", {"instances": np.zeros((2000, 3)).tolist()}, 413, "the limit of numbers in JSON is 20000"),
        ("toy:explain", {"instances": np.zeros((400, 3)).tolist()}, 413, "the limit of numbers in JSON is 20000"),
    ):
        reply = ask(web, f"/v1/models/{path}", body)
        assert (reply.status, words in reply.json["error"]) == (status, True), reply.body
        assert {"code", "help", "request_id"} <= reply.json.keys()
        assert good(web, "toy:predict", [[1, 2, 3]])


def test_the_routes_need_the_roles_of_infer_and_explain(tmp_path: Path) -> None:
    toy_model.write(tmp_path / "models")
    tokens = credentials.write_tokens(tmp_path / "tokens.toml")
    body = {"instances": [[1, 2, 3]]}
    with serving(tmp_path / "models", transport="asgi", tokens=str(tmp_path / "tokens.toml")) as server:
        for verb, allowed in (("predict", "infer"), ("explain", "interpret")):
            path = f"/v1/models/toy:{verb}"
            found = {
                role: ask(server, path, body, authorization=f"Bearer {tokens[role]}").status
                for role in ("read", "infer", "interpret")
            }
            assert found == {"read": 403, "infer": 403, "interpret": 403} | {allowed: 200}
            assert ask(server, path, body).status == 401
