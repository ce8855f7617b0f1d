"""Explain over the wire: the toy model's known contributions, references, and rejected requests."""

import concurrent.futures
import dataclasses
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanexport.shared import manifest as manifests
from kanserve.client.errors import NotSupported
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2
from tests.support import toy_model
from tests.support.bad_requests import refused
from tests.support.server_process import KAN, Server, serving

ROWS = np.random.default_rng(4).normal(size=(7, 3))


def ask(server: Server, given_rows: np.ndarray, **fields: Any) -> kan_pb2.ExplainResponse:
    supplied = {"model_name": "toy", "rows": given_rows.tobytes(), "row_count": len(given_rows), **fields}
    message = kan_pb2.ExplainRequest(**supplied)
    return kan_pb2.ExplainResponse.FromString(server.call(f"{KAN}Explain", message.SerializeToString()))


def contributions(response: kan_pb2.ExplainResponse) -> np.ndarray:
    return np.frombuffer(response.contributions, "<f8").reshape(-1, response.nodes, len(response.outputs))


def truth(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """y = tanh(x) W0 W1: a sum of functions of one input each, so that nothing is left to choose."""
    return (np.tanh(rows) - np.tanh(reference))[:, :, None] * (toy_model.W0 @ toy_model.W1)[None]


@pytest.mark.parametrize(("model", "dtype", "tolerance"), [("toy", "<f4", 2e-6), ("toy64", "<f8", 1e-9)])
def test_of_an_additive_model_each_input_has_its_part(server: Server, model: str, dtype: str, tolerance: float) -> None:
    rows = ROWS.astype(dtype)
    response = ask(server, rows, model_name=model, id="e1")
    assert (response.model_name, response.id, len(response.digest), response.method) == (model, "e1", 64, "rescale")
    assert (response.reference, response.layer, response.nodes_are_inputs, list(response.outputs)) == (
        "zeros",
        0,
        True,
        [0, 1],
    )
    np.testing.assert_allclose(contributions(response), truth(rows, np.zeros(3)), rtol=1e-5, atol=tolerance)
    predictions = np.frombuffer(response.predictions, "<f8").reshape(7, 2)
    np.testing.assert_allclose(predictions, toy_model.outputs(rows), rtol=1e-5, atol=tolerance)
    total = np.frombuffer(response.base, "<f8") + contributions(response).sum(axis=1)
    error = np.frombuffer(response.completeness_error, "<f8").reshape(7, 2)
    np.testing.assert_allclose(np.abs(total - predictions), error, atol=1e-12)
    assert error.max() <= tolerance


def test_rows_of_the_caller_s_as_reference_are_a_mean(server: Server) -> None:
    rows, reference = ROWS.astype("<f4"), ROWS[:4].astype("<f4") * 2
    response = ask(server, rows, reference_rows=reference.tobytes(), reference_count=4, outputs=[1])
    expected = np.mean([truth(rows, item) for item in reference], axis=0)
    np.testing.assert_allclose(contributions(response), expected[:, :, 1:], rtol=1e-4, atol=2e-6)
    mean = toy_model.outputs(reference)[:, 1:].mean(axis=0)
    np.testing.assert_allclose(np.frombuffer(response.base), mean, rtol=1e-5, atol=1e-6)
    assert (response.reference, list(response.outputs)) == ("rows", [1])


@pytest.mark.parametrize(("model", "dtype", "tolerance"), [("toy", "<f4", 2e-3), ("toy64", "<f8", 2e-6)])
def test_the_slope_times_the_distance(server: Server, model: str, dtype: str, tolerance: float) -> None:
    rows, reference = ROWS.astype(dtype), ROWS[:2].astype(dtype) * 2
    requested = {"reference_rows": reference.tobytes(), "reference_count": 2, "method": "gradient_x_input"}
    response = ask(server, rows, model_name=model, **requested)
    slope = (1 - np.tanh(rows) ** 2)[:, :, None] * (toy_model.W0 @ toy_model.W1)[None]
    expected = slope * (rows - reference.mean(axis=0))[:, :, None]
    np.testing.assert_allclose(contributions(response), expected, rtol=tolerance, atol=tolerance)
    assert response.method == "gradient_x_input"
    assert "do not add up" in response.notes[0]
    missed = np.frombuffer(response.completeness_error, "<f8").reshape(7, 2)
    total = np.frombuffer(response.base, "<f8") + contributions(response).sum(axis=1)
    np.testing.assert_allclose(missed, np.abs(total - np.frombuffer(response.predictions).reshape(7, 2)), atol=1e-12)
    assert missed.max() > 0.1


def test_a_row_that_is_not_finite_is_explained_as_that_and_spoils_no_other(server: Server) -> None:
    rows = ROWS.astype("<f4").copy()
    rows[2, 1] = np.nan
    result = contributions(ask(server, rows))
    assert np.isnan(result[2]).any()
    rest = [at for at in range(7) if at != 2]
    np.testing.assert_array_equal(result[rest], contributions(ask(server, ROWS.astype("<f4")))[rest])


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"model_name": "none"}, grpc.StatusCode.NOT_FOUND, "unknown model"),
        ({"rows": b"", "row_count": 0}, grpc.StatusCode.INVALID_ARGUMENT, "the request has no rows"),
        ({"rows": b"123"}, grpc.StatusCode.INVALID_ARGUMENT, "rows has 3 bytes"),
        ({"outputs": [2]}, grpc.StatusCode.INVALID_ARGUMENT, "unknown output 2: the model has 2 outputs"),
        ({"outputs": [1, 1]}, grpc.StatusCode.INVALID_ARGUMENT, "an output is named twice"),
        ({"method": "shap"}, grpc.StatusCode.INVALID_ARGUMENT, "unknown method 'shap'"),
        ({"reference": "train"}, grpc.StatusCode.INVALID_ARGUMENT, "unknown reference 'train'"),
        ({"reference": "mean"}, grpc.StatusCode.FAILED_PRECONDITION, "has no mean, because its export had no baseline"),
        ({"reference": "rows"}, grpc.StatusCode.INVALID_ARGUMENT, "but the request has 0 reference rows"),
        (
            {"reference": "zeros", "reference_rows": bytes(12), "reference_count": 1},
            grpc.StatusCode.INVALID_ARGUMENT,
            "the reference is 'zeros', but the request has 1 reference rows",
        ),
        ({"reference_rows": bytes(11), "reference_count": 1}, grpc.StatusCode.INVALID_ARGUMENT, "rows has 11 bytes"),
        ({"reference": "grid_center"}, grpc.StatusCode.FAILED_PRECONDITION, "some inputs have no grid"),
        ({"row_count": 2**31}, grpc.StatusCode.RESOURCE_EXHAUSTED, "the query has 2147483648 rows"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_words(
    server: Server, fields: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    with refused(code, text):
        ask(server, ROWS.astype("<f4"), **fields)


def test_work_and_responses_are_bounded_and_layers_have_to_follow_one_another(tmp_path: Path) -> None:
    """A manifest that leaves a step out: what the layer gives is not what the next one takes."""
    toy_model.write(tmp_path)
    steps = {
        "layer 0 has other results than the inputs of the next layer": {"kind": "function", "function": "tanh"},
        "layer 0 has an unknown step: Odd": {"kind": "module", "function": "Odd"},
    }
    for at, step in enumerate(steps.values()):
        directory = toy_model.write(tmp_path, f"odd{at}")
        first, *rest = manifests.load(directory).layers
        first = dataclasses.replace(first, post_steps=(manifests.NodeStep(**step),))
        toy_model.edit(directory, layers=(first, *rest))
    with serving(tmp_path, max_response_bytes=1024, max_edge_query_evaluations=1000) as server:
        words = "the response takes 3840 bytes (40 rows x 2 outputs x 4 inputs), the limit is 1024"
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words):
            ask(server, np.zeros((40, 3), np.float32))
        more = {"reference_rows": bytes(12 * 40), "reference_count": 40}
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "edge evaluations (4 rows, 40 reference rows, 2 outputs)"):
            ask(server, np.zeros((4, 3), np.float32), **more)
        with Client(server.address) as client:
            for at, why in enumerate(steps):
                with pytest.raises(NotSupported, match=why):
                    client.explain(client.describe(f"odd{at}"), ROWS.astype(np.float32))


def test_who_leaves_leaves_his_place(server: Server) -> None:
    """More calls than places can start and end."""
    rows = np.zeros((4096, 3), np.float32)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        message = kan_pb2.ExplainRequest(model_name="toy", rows=rows.tobytes(), row_count=len(rows)).SerializeToString()

        def leave(_: int) -> None:
            call = server.channel.unary_unary(f"{KAN}Explain").future(message, timeout=60)
            call.cancel()

        list(pool.map(leave, range(100)))
    assert len(contributions(ask(server, ROWS.astype("<f4")))) == 7
