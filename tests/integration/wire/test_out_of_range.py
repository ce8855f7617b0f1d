"""Out-of-range policies: flag, reject, clamp to the grid, or none. Export, server and commands apply them."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http

from kanexport.pipeline import Request, export
from kanexport.shared import manifest as manifests
from kanexport.shared.naming import Names
from kanexport.shared.sections import AS_TRAINED, OUT_OF_RANGE_POLICIES
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as pb
from tests.kanserve.insight.test_coverage import SPLINE, UNFIT
from tests.support import bad_requests, http_client, toy_model
from tests.support.command_line import checkpoint, document, kanserve
from tests.support.server_process import INFERENCE, SHARED, Server, request, serving
from tests.support.tiers import full, spread

# Knots from -2.2 to 2.2, of which -1 to 1 are the grid.
INSIDE = np.array([[0.1, -0.5, 0.9], [0.0, 1.4, -2.1]], np.float32)
OUTSIDE = np.array([[0.1, -0.5, 0.9], [0.0, 1.4, -2.6], [9.0, 0.0, 2.5], [0.0, 2.1, 0.0]], np.float32)
REFUSED = "row 1: 'width' is -2.6 for model 'reject', outside its range -2.2 to 2.2 (rows outside: 2 of 4)"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network under each policy."""
    root = tmp_path_factory.mktemp("border")
    path = checkpoint(root / "m.safetensors", (3, 4, 2))
    names = Names(("length", "height", "width"), (), (), "")
    for policy in OUT_OF_RANGE_POLICIES:
        export(Request(path=path, repository=root / "models", name=policy, out_of_range=policy, names=names))
    return root / "models"


served = http_client.served(SHARED, "models")


def words(text: str) -> str:
    return " ".join(text.split())


@spread("policy", ["", *OUT_OF_RANGE_POLICIES], 2)
def test_the_policy_is_told_by_the_export_and_of_the_folder(tmp_path: Path, policy: str) -> None:
    path, chosen = checkpoint(tmp_path / "m.safetensors", (3, 4, 2)), ("--out-of-range", policy) if policy else ()
    command = ("export", path, "--repository", tmp_path / "models", "--name", "m", *chosen)
    done = kanserve(*command)
    assert done.returncode == 0, done.stderr
    expected = policy or AS_TRAINED
    loud, text = expected != AS_TRAINED, OUT_OF_RANGE_POLICIES[expected]
    assert (f"out of range: {expected}: {text}" in words(done.stdout)) == loud
    assert document(kanserve(*command, "--force", "--json"))["out_of_range"] == expected
    show = ("models", tmp_path / "models", "m")
    assert document(kanserve(*show, "--json"))["model"]["out_of_range_policy"] == expected
    assert (text in words(kanserve(*show).stdout)) == loud


@full("combination")
def test_a_module_is_not_clamped(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    np.save(tmp_path / "rows.npy", np.zeros((4, 3), np.float32))
    created = ("--module", "torch.nn:Identity", "--example", tmp_path / "rows.npy", "--name", "module")
    done = kanserve("export", *created, "--repository", tmp_path / "models", "--out-of-range", "clamp")
    assert done.returncode == 2
    assert "--out-of-range clamp does not fit a PyTorch module" in words(done.stderr)


def ask(server: Server, model: str, rows: np.ndarray, **parameters: Any) -> pb.ModelInferResponse:
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(server.address) as client:
        return client.infer(model, [tensor], parameters=parameters or None).get_response()


def counted(server: Server, model: str) -> float | None:
    result = re.search(rf'kanserve_out_of_range_rows_total{{model="{model}",version="1"}} (\S+)', server.metrics())
    return float(result[1]) if result else None


def reason(server: Server, rows: np.ndarray) -> str:
    with bad_requests.refused(grpc.StatusCode.INVALID_ARGUMENT) as caught:
        server.infer(rows, "reject")
    assert bad_requests.code(caught.value) == "row-out-of-range"
    return str(caught.value.details())


def test_flagged_rows_are_served_and_told(served: Server) -> None:
    before = counted(served, "flag")
    assert before is not None
    for rows, count in ((OUTSIDE, 2), (INSIDE, 0), (OUTSIDE[2:3], 1)):
        response = ask(served, "flag", rows)
        assert response.parameters["kan.out_of_range_rows"].int64_param == count
        assert response.raw_output_contents == ask(served, "as-trained", rows).raw_output_contents
    assert counted(served, "flag") == before + 3
    assert served.infer(OUTSIDE[:0], "flag").shape == (0, 2)
    response = ask(served, "flag", OUTSIDE, **{"kan.coverage": True})
    assert set(response.parameters) == {"kan.out_of_range_rows", "kan.coverage.definition"}
    tensor = triton_http.InferInput("x", [4, 3], "FP32")
    tensor.set_data_from_numpy(OUTSIDE)
    with triton_http.InferenceServerClient(served.http) as client:
        assert client.infer("flag", [tensor]).get_response()["parameters"] == {"kan.out_of_range_rows": 2}


def test_a_request_with_a_row_outside_is_refused_by_name(served: Server) -> None:
    before = counted(served, "reject")
    assert before is not None
    for _ in range(3):  # the form of the request is known by then
        np.testing.assert_array_equal(served.infer(INSIDE, "reject"), served.infer(INSIDE, "as-trained"))
        assert reason(served, OUTSIDE) == REFUSED
        assert reason(served, OUTSIDE[2:]).startswith("row 0: 'length' is 9 for model 'reject', outside its range -2.2")
    assert counted(served, "reject") == before + 9
    reply = http_client.infer(served, {"inputs": [http_client.tensor(OUTSIDE)]}, "reject")
    assert (reply.status, reply.json["error"]) == (400, REFUSED)
    stream = served.channel.stream_stream(f"{INFERENCE}ModelStreamInfer")
    messages = [request(rows, "reject").SerializeToString() for rows in (INSIDE, OUTSIDE, INSIDE)]
    responses = [pb.ModelStreamInferResponse.FromString(raw) for raw in stream(iter(messages), timeout=60)]
    assert [response.error_message for response in responses] == ["", REFUSED, ""]


def test_each_request_of_a_batch_has_its_own_flag(served: Server) -> None:
    call = served.channel.unary_unary(f"{INFERENCE}ModelInfer")
    before, rows = counted(served, "flag"), [INSIDE[:1], OUTSIDE[2:3]] * 40
    assert before is not None
    expected = [served.infer(item, "as-trained") for item in rows[:2]]
    for at, future in enumerate([call.future(request(item, "flag").SerializeToString()) for item in rows]):
        response = pb.ModelInferResponse.FromString(future.result(timeout=60))
        assert response.parameters["kan.out_of_range_rows"].int64_param == at % 2
        assert response.raw_output_contents == [expected[at % 2].tobytes()]
    assert counted(served, "flag") == before + 40


def test_what_is_no_number_is_outside(served: Server) -> None:
    rows = np.array([[np.nan, 0, 0], [0, np.inf, 0]], np.float32)
    assert ask(served, "flag", rows).parameters["kan.out_of_range_rows"].int64_param == 2
    assert "row 0: 'length' is nan for model 'reject', outside its range -2.2 to 2.2" in reason(served, rows)


def test_clamped_inputs_are_served_as_the_nearest_on_the_grid(served: Server) -> None:
    there = np.clip(OUTSIDE, np.float32(-1), np.float32(1))
    np.testing.assert_allclose(served.infer(OUTSIDE, "clamp"), served.infer(there, "as-trained"), rtol=1e-5, atol=1e-5)
    response = ask(served, "clamp", OUTSIDE, **{"kan.coverage": True})
    assert "kan.out_of_range_rows" not in response.parameters
    zones = response.raw_output_contents[[output.name for output in response.outputs].index("kan.coverage.zones.0")]
    # As they were sent, not as the graph keeps them.
    assert list(zones) == [1, 1, 1, 1, 2, 3, 3, 1, 3, 1, 2, 1]
    assert counted(served, "clamp") is None


def test_the_policy_is_told_and_as_trained_counts_nothing(served: Server) -> None:
    response = ask(served, "as-trained", OUTSIDE)
    assert not response.parameters
    assert counted(served, "as-trained") is None
    with Client(served.address) as client, triton.InferenceServerClient(served.address) as other:
        for policy in OUT_OF_RANGE_POLICIES:
            assert client.describe(policy).out_of_range_policy == policy
            shown = document(kanserve("models", policy, "--url", served.address, "--json"))["model"]
            assert shown["out_of_range_policy"] == policy
            config = other.get_model_config(policy).config
            assert config.parameters["kan.out_of_range_policy"].string_value == policy


def test_curves_and_explanations_of_a_clamped_model_are_those_on_its_grid(served: Server) -> None:
    with Client(served.address) as client:
        plain, clamped = (client.describe(name) for name in ("as-trained", "clamp"))
        item, other = (client.curves(described.name)[0] for described in (plain, clamped))
        np.testing.assert_array_equal(item.x, other.x)
        on_grid = np.abs(item.x[0]) <= 1
        np.testing.assert_allclose(other.phi[..., on_grid], item.phi[..., on_grid], atol=1e-6)
        first, second = (client.explain(described, INSIDE[:1]) for described in (plain, clamped))
        assert second.reference == first.reference == "grid_center"
        np.testing.assert_allclose(second.contributions, first.contributions, atol=1e-5)


def test_a_manifest_that_does_not_fit_itself_is_refused_in_words(tmp_path: Path) -> None:
    """The first request that needs a grid edge measures it if no policy needs it at load. Other requests succeed."""
    for name, step in UNFIT.items():
        directory = toy_model.write(tmp_path, name)
        first, *rest = manifests.load(directory).layers
        toy_model.edit(directory, layers=(dataclasses.replace(first, pre_steps=(step,), bases=(SPLINE,)), *rest))
    toy_model.edit(toy_model.write(tmp_path, "empty"), layers=())
    with serving(tmp_path) as running:
        for name in UNFIT:
            unfit = "the steps before layer 0 in the manifest do not fit its 3 nodes"
            assert refusal(running, name, {"kan.coverage": True}) == unfit
            reported = refusal(running, name, {"kan.explain_top_k": 1})
            assert "layer 0 has steps in its manifest that do not fit its nodes" in reported
        for parameters in ({"kan.coverage": True}, {"kan.explain_top_k": 1}):
            assert refusal(running, "empty", parameters) == "model 'empty' has no KAN layers in its manifest"
        assert running.infer(INSIDE, "empty").shape == running.infer(INSIDE, name).shape == (2, 2)


def refusal(server: Server, model: str, parameters: dict[str, Any]) -> str:
    with pytest.raises(triton.InferenceServerException) as caught:
        ask(server, model, INSIDE, **parameters)
    assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"
    return str(caught.value.message())
