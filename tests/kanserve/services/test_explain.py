"""kan.coverage and kan.explain_top_k: extra outputs in one round trip, read by Triton's clients."""

import contextlib
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.pipeline import Request, export
from kanexport.shared.manifest import BasisInfo
from kanserve.analysis import query_plan
from kanserve.auth import token_file
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.kanserve.conftest import TRANSPORTS
from tests.support import credentials, http_client, toy_grid_model, toy_model
from tests.support.bad_requests import refused
from tests.support.command_line import checkpoint
from tests.support.server_process import INFERENCE, KAN, Server, request, serving

Code = grpc.StatusCode
# Knots from -2.2 to 2.2, of which -1 to 1 are the grid, in cells of 0.4.
ROWS = np.array([[0.1, -0.5, 0.9], [0.0, 1.4, 0.2], [-2.6, 0.3, 1.2]], np.float32)
BOTH = {"kan.coverage": True, "kan.explain_top_k": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`spline` of widths 3, 4, 2 in two versions, `plain` without a manifest, and the toy."""
    root = tmp_path_factory.mktemp("insight")
    for version in (1, 2):
        path = checkpoint(root / "spline.safetensors", (3, 4, 2), seed=version)
        export(Request(path=path, repository=root / "models", name="spline", version=version))
    toy_model.write(root / "models")
    toy_model.write_slow(root / "models", "plain", steps=1, size=2)
    return root / "models"


served = http_client.served(TRANSPORTS, "models", plain_onnx=True, max_edge_query_rows=16)


def of(server: Server, rows: np.ndarray, parameters: dict[str, Any], model: str = "spline") -> Any:
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(server.address) as client:
        return client.infer(model, [tensor], parameters=parameters)


def over_http(server: Server, rows: np.ndarray, parameters: dict[str, Any], *, binary: bool = True) -> Any:
    tensor = triton_http.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    outputs = None if binary else [triton_http.InferRequestedOutput("y", binary_data=False)]
    with triton_http.InferenceServerClient(server.http) as client:
        return client.infer("spline", [tensor], outputs=outputs, parameters=parameters)


def explained(server: Server, rows: np.ndarray) -> tuple[np.ndarray, kan_pb2.ExplainResponse]:
    """[B, n, O] by Explain."""
    message = kan_pb2.ExplainRequest(model_name="spline", rows=rows.tobytes(), row_count=len(rows))
    response = kan_pb2.ExplainResponse.FromString(server.call(f"{KAN}Explain", message.SerializeToString()))
    return np.frombuffer(response.contributions).reshape(len(rows), response.nodes, len(response.outputs)), response


def test_what_a_row_is_on_its_grids_comes_with_its_response(served: Server) -> None:
    response = of(served, ROWS, {"kan.coverage": True})
    np.testing.assert_array_equal(response.as_numpy("kan.coverage.zones.0"), [[1, 1, 1], [1, 2, 1], [3, 1, 2]])
    counts = response.as_numpy("kan.coverage.counts")
    assert (counts.dtype, counts.shape) == (np.int32, (3, 2, 3))
    np.testing.assert_array_equal(counts[:, 0], [[3, 0, 0], [2, 1, 0], [1, 1, 1]])
    assert (counts[:, 1].sum(axis=1) == 4).all()
    np.testing.assert_array_equal(response.as_numpy("kan.coverage.worst")[:, 0], [-1, 1, 0])
    np.testing.assert_allclose(response.as_numpy("kan.coverage.cells")[:, 0], [0, 1, 4], atol=1e-6)
    assert response.get_response().parameters["kan.coverage.definition"].string_param == "grid,grid"


def test_the_strongest_inputs_are_those_of_explain_and_add_up(served: Server) -> None:
    response = of(served, ROWS, {"kan.explain_top_k": 2})
    whole, reported = explained(served, ROWS)
    features, values = (response.as_numpy(f"kan.explain.{name}") for name in ("features", "values"))
    assert (features.dtype, values.dtype, features.shape, values.shape) == (np.int32, np.float64, (3, 2, 2), (3, 2, 2))
    for row, output in np.ndindex(3, 2):
        order = np.argsort(-np.abs(whole[row, :, output]), kind="stable")[:2]
        np.testing.assert_array_equal(features[row, output], order)
        np.testing.assert_array_equal(values[row, output], whole[row, order, output])
    rest, base, error = (
        response.as_numpy(f"kan.explain.{name}") for name in ("residual", "base", "completeness_error")
    )
    np.testing.assert_allclose(rest, whole.sum(axis=1) - values.sum(axis=2), atol=1e-12)
    np.testing.assert_array_equal(base, np.broadcast_to(np.frombuffer(reported.base), (3, 2)))
    total = base + values.sum(axis=2) + rest
    assert (np.abs(total - response.as_numpy("y")) <= error + 1e-6).all()
    said = response.get_response().parameters
    assert said["kan.explain.method"].string_param == reported.method
    assert said["kan.explain.reference"].string_param == reported.reference == "grid_center"
    assert (said["kan.explain.nodes_are_inputs"].bool_param, said["kan.explain.layer"].int64_param) == (True, 0)
    response = of(served, ROWS, {"kan.explain_top_k": 20})  # more than there are inputs is all of them
    assert response.as_numpy("kan.explain.values").shape == (3, 2, 3)
    np.testing.assert_array_equal(response.as_numpy("kan.explain.residual"), 0.0)


def test_responses_are_the_same_bytes_with_and_without(served: Server) -> None:
    bare = of(served, ROWS, {}).get_response()
    for parameters in ({"kan.coverage": True}, {"kan.explain_top_k": 1}, BOTH):
        reported = of(served, ROWS, parameters).get_response()
        assert reported.raw_output_contents[0] == bare.raw_output_contents[0]
        assert reported.outputs[0] == bare.outputs[0]
    for nothing in ({"kan.coverage": False}, {"kan.explain_top_k": 0}, {"kan.coverage": False, "kan.explain_top_k": 0}):
        again = of(served, ROWS, nothing).get_response()
        assert again.SerializeToString(deterministic=True) == bare.SerializeToString(deterministic=True)


SAID = {
    "kan.coverage.definition": "grid,grid",
    "kan.explain.method": "rescale",
    "kan.explain.reference": "grid_center",
    "kan.explain.layer": 0,
    "kan.explain.nodes_are_inputs": True,
}


def test_a_row_with_nan_is_told_as_that_over_grpc_and_http_and_spoils_no_other(served: Server) -> None:
    spoilt = ROWS.copy()
    spoilt[1, 2] = np.nan
    unary = tuple(of(served, rows, BOTH) for rows in (spoilt, ROWS))
    over = tuple(over_http(served, rows, BOTH, binary=rows is ROWS) for rows in (spoilt, ROWS))
    for response, there in zip(unary, over, strict=True):
        names = [output.name for output in response.get_response().outputs]
        assert ([output["name"] for output in there.get_response()["outputs"]], len(names)) == (names, 11)
        assert there.get_response()["parameters"] == SAID
        for name in names:
            np.testing.assert_array_equal(there.as_numpy(name), response.as_numpy(name))
    for response, other in (unary, over):
        assert np.isnan(response.as_numpy("kan.explain.values")[1]).any()
        assert response.as_numpy("kan.coverage.cells")[1, 0] == np.inf
        assert response.as_numpy("kan.coverage.worst")[1, 0] == 2
        for output in ("kan.explain.values", "kan.coverage.cells", "kan.coverage.zones.1"):
            np.testing.assert_array_equal(response.as_numpy(output)[[0, 2]], other.as_numpy(output)[[0, 2]])


def test_a_parameter_that_is_wrong_is_refused_in_words(served: Server) -> None:
    for parameters, text in (
        ({"kan.coverage": 1}, "invalid value type for 'kan.coverage' parameter, expected bool"),
        ({"kan.explain_top_k": "3"}, "invalid value type for 'kan.explain_top_k' parameter"),
        ({"kan.explain_top_k": 21}, "invalid value for 'kan.explain_top_k', expected 0 to 20"),
        ({"kan.explain_top_k": -1}, "expected 0 to 20, got -1"),
        ({"kan.explain_topk": 3}, "unknown parameter 'kan.explain_topk'"),
    ):
        with pytest.raises(triton.InferenceServerException) as caught:
            of(served, ROWS, parameters)
        assert (caught.value.status(), text in caught.value.message()) == (str(Code.INVALID_ARGUMENT), True)
        with pytest.raises(triton_http.InferenceServerException) as over:
            over_http(served, ROWS, parameters)
        assert (over.value.status(), text in over.value.message()) == ("400", True), over.value


def test_what_a_model_cannot_tell_fails_before_it_runs(served: Server) -> None:
    many = np.zeros((17, 3), np.float32)
    limit = "the query has 17 rows, expected at most 16"
    for rows, parameters, model, code, text in (
        (many[:1, :1], {"kan.coverage": True}, "plain", Code.FAILED_PRECONDITION, "kanexport did not export it"),
        (ROWS[:0], BOTH, "spline", Code.INVALID_ARGUMENT, "the request has no rows"),
        (many, {"kan.coverage": True}, "spline", Code.RESOURCE_EXHAUSTED, limit),
        (many, {"kan.explain_top_k": 1}, "spline", Code.RESOURCE_EXHAUSTED, limit),
    ):
        message = request(rows, model)
        for key, value in parameters.items():
            setattr(message.parameters[key], "bool_param" if isinstance(value, bool) else "int64_param", value)
        with refused(code, text):
            served.call(f"{INFERENCE}ModelInfer", message.SerializeToString())


def test_a_model_without_grids_says_that_it_held_nodes_against_nothing(served: Server) -> None:
    response = of(served, ROWS, {"kan.coverage": True}, "toy")
    assert response.get_response().parameters["kan.coverage.definition"].string_param == "none,none"
    assert (response.as_numpy("kan.coverage.zones.0") == 0).all()
    assert (response.as_numpy("kan.coverage.worst") == -1).all()


def test_of_a_layer_at_several_positions_all_nodes_count(tmp_path: Path) -> None:
    """An explanation that the model does not have is rejected as in Explain."""
    centres = BasisInfo(kind="gaussian", functions=3, parameters={}, knots=((-1.0, 0.0, 1.0),))
    toy_grid_model.edit_layer(toy_grid_model.write(tmp_path), 0, bases=(centres,))
    rows = np.zeros((2, 2, 3), np.float32)
    rows[1, 1, 0], rows[1, 0, 2] = 3.0, -9.0  # halved, before the layer reads them
    with serving(tmp_path, max_response_bytes=1024) as running:
        response = of(running, rows, {"kan.coverage": True}, "grid")
        with pytest.raises(triton.InferenceServerException) as caught:
            of(running, rows, {"kan.explain_top_k": 1}, "grid")
        with pytest.raises(triton.InferenceServerException, match=r"the coverage takes \d+ bytes"):
            of(running, np.zeros((20, 2, 3), np.float32), {"kan.coverage": True}, "grid")
    zones = response.as_numpy("kan.coverage.zones.0")
    assert zones.shape == (2, 2, 3, 1)
    np.testing.assert_array_equal(zones[1, :, :, 0], [[1, 1, 3], [2, 1, 1]])
    assert response.as_numpy("kan.coverage.zones.1").shape == (2, 2, 12)
    np.testing.assert_array_equal(response.as_numpy("kan.coverage.counts")[:, 0], [[6, 0, 0], [4, 1, 1]])
    np.testing.assert_array_equal(response.as_numpy("kan.coverage.worst")[:, 0], [-1, 2])
    np.testing.assert_allclose(response.as_numpy("kan.coverage.cells")[:, 0], [0, 3.5])
    assert response.get_response().parameters["kan.coverage.definition"].string_param == "grid,none,none"
    assert caught.value.status() == str(Code.FAILED_PRECONDITION)
    assert "need exactly one output of shape [rows, numbers]" in caught.value.message()


def test_who_may_run_a_model_may_not_look_into_it(models: Path, tmp_path: Path, transport: str) -> None:
    """Over unary calls, streams and HTTP; who has both roles may."""
    both = token_file.make()
    created = credentials.write_tokens(
        tmp_path / "tokens.toml", more=credentials.block("both", both, "infer", "interpret")
    )
    chosen = http_client.way(transport)[1]
    message = request(ROWS, "spline")
    message.parameters["kan.coverage"].bool_param = True
    requested = message.SerializeToString()
    document = {"inputs": [http_client.tensor(ROWS)], "parameters": {"kan.coverage": True}}
    with serving(models, plain_onnx=True, tokens=str(tmp_path / "tokens.toml"), **chosen) as running:
        for token, allowed in ((created["infer"], False), (both, True), (created["admin"], True)):
            shown = credentials.bearer(token)
            stream = running.channel.stream_stream(f"{INFERENCE}ModelStreamInfer")
            (raw,) = stream(iter([requested]), timeout=60, metadata=shown)
            response = pb.ModelStreamInferResponse.FromString(raw)
            words = "this call needs the role interpret, which infer does not have"
            assert (len(response.infer_response.outputs) == 6, words in response.error_message) == (
                allowed,
                not allowed,
            )
            reply = http_client.infer(running, document, "spline", authorization=shown[0][1])
            assert (reply.status, words in reply.body.decode()) == ((200, False) if allowed else (403, True))
            with contextlib.nullcontext() if allowed else refused(Code.PERMISSION_DENIED, words):
                assert running.call(f"{INFERENCE}ModelInfer", requested, metadata=shown)


@settings(max_examples=settings.default.max_examples // 5)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.integers(1, 12))
def test_the_largest_come_first_and_ties_in_their_order(seed: int, rows: int, nodes: int, outputs: int, k: int) -> None:
    values = np.random.default_rng(seed).integers(-3, 4, (rows, nodes, outputs)).astype(float)
    values[values == 3] = np.nan
    result = query_plan.largest(values, k)
    assert result.shape == (rows, outputs, min(k, nodes))
    for row, output in np.ndindex(rows, outputs):
        keys = [(-np.inf if np.isnan(v) else -abs(v), at) for at, v in enumerate(values[row, :, output])]
        assert result[row, output].tolist() == [at for _, at in sorted(keys)][:k]
