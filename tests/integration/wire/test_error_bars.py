"""`kan.error_bar` of golden models over gRPC, REST and streams: values, order, parameters, errors and commands."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanexport.bundle import calibration, error_bars
from kanexport.bundle.certification import CertifyOptions
from kanexport.pipeline import Request, export
from kanexport.shared import manifest
from kanexport.shared.error_bars import NAME, Bars
from kanserve.auth import token_file
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as pb
from tests.integration.wire.test_intervals import ask
from tests.support import bad_requests, credentials, http_client
from tests.support.command_line import document, kanserve
from tests.support.golden_cases import cases
from tests.support.server_process import INFERENCE, SHARED, Server, request, serving

RNG = np.random.default_rng(1)
ROWS = np.concatenate([RNG.uniform(-0.9, 0.9, (4, 2)), [[5, 0]]]).astype(np.float32)  # the last one is not in the box


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows agree with the assumption, one with noise and intervals, and one without bars."""
    root = tmp_path_factory.mktemp("bars")
    (case,) = (case for case in cases() if case.name == "pykan-hello-adapted")
    x = RNG.uniform(-1, 1, (400, 2))
    y = np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)
    for name, noise in (("exact", 0.0), ("noisy", 2.0)):
        np.savez(root / f"{name}.npz", x=x, y=y + noise * RNG.normal(size=400))
        fields: dict[str, Any] = {"certification": CertifyOptions(budget=30), "options": case.options}
        fields["error_bars"] = error_bars.options(root / f"{name}.npz", enabled=True, certify=True)
        if noise:
            fields["intervals"] = calibration.options(root / f"{name}.npz", 0.9)
        export(Request(path=case.path, repository=root / "m", name=name, **fields))
    export(Request(path=case.path, repository=root / "m", name="plain", options=case.options))
    return root / "m"


served = http_client.served(SHARED, "models")


def expected(models: Path, name: str, rows: np.ndarray = ROWS) -> np.ndarray:
    whole = manifest.load(models / name / "1")
    return Bars(whole.error_bars, whole.certificate).of(rows)


def test_bars_are_those_of_the_manifest_next_to_unchanged_outputs(served: Server, models: Path) -> None:
    plain = ask(served, "exact", ROWS)
    wanted = expected(models, "exact")
    assert np.isinf(wanted[4]).all()
    assert np.isfinite(wanted[:4]).all()
    for _ in range(3):  # the cache of known requests does not learn it
        response = ask(served, "exact", ROWS, "y", NAME)
        assert [(output.name, output.datatype) for output in response.outputs] == [("y", "FP32"), (NAME, "FP32")]
        assert list(response.outputs[1].shape) == [5, 1]
        assert list(response.raw_output_contents) == [plain.raw_output_contents[0], wanted.tobytes()]
        assert response.parameters["kan.error_bar_factor"].double_param == 1.0
        assert response.parameters["kan.error_bar_unbounded_rows"].int64_param == 1
        assert response.parameters["kan.error_bar_note"].string_param.startswith("assumption: the true function is no")
        assert "kan.error_bar_reliable" not in response.parameters
    turned = ask(served, "exact", ROWS, NAME, "y")
    assert [output.name for output in turned.outputs] == [NAME, "y"]
    only = ask(served, "exact", ROWS, NAME)
    assert [output.name for output in only.outputs] == [NAME]
    assert only.raw_output_contents[0] == wanted.tobytes()
    none = ask(served, "exact", ROWS[:0], "y", NAME)
    assert list(none.outputs[1].shape) == [0, 1]
    assert "kan.error_bar_factor" not in plain.parameters
    many = np.tile(ROWS, (200, 1))  # off the event loop
    assert ask(served, "exact", many, NAME).raw_output_contents[0] == np.tile(wanted, (200, 1)).tobytes()


def test_a_contradicted_assumption_marks_bars_as_unreliable_next_to_intervals(served: Server, models: Path) -> None:
    response = ask(served, "noisy", ROWS, NAME, "y", "kan.interval")
    assert [output.name for output in response.outputs] == [NAME, "y", "kan.interval", "kan.interval_out_of_range"]
    assert response.raw_output_contents[0] == expected(models, "noisy").tobytes()
    assert response.parameters["kan.error_bar_reliable"].bool_param is False
    assert "rows of noisy.npz contradict the assumption" in response.parameters["kan.error_bar_note"].string_param
    assert response.parameters["kan.interval_coverage"].double_param == 0.9


def test_bars_need_the_role_interpret(models: Path, tmp_path: Path) -> None:
    """Bars reveal stored rows. Over unary calls, streams and HTTP; who has both roles may have them."""
    more = credentials.block("both", both := token_file.make(), "infer", "interpret")
    created = credentials.write_tokens(tmp_path / "tokens.toml", more=more)
    message = request(ROWS, "exact")
    message.outputs.add(name=NAME)
    body = {"inputs": [http_client.tensor(ROWS)], "outputs": [{"name": NAME}]}
    words, raw = "this call needs the role interpret, which infer does not have", message.SerializeToString()
    with serving(models, tokens=str(tmp_path / "tokens.toml"), **http_client.way("asgi")[1]) as running:
        for token, allowed in ((created["infer"], False), (both, True)):
            shown = credentials.bearer(token)
            stream = running.channel.stream_stream(f"{INFERENCE}ModelStreamInfer")
            (response,) = stream(iter([raw]), timeout=60, metadata=shown)
            assert (words in pb.ModelStreamInferResponse.FromString(response).error_message) is not allowed
            reply = http_client.infer(running, body, "exact", authorization=shown[0][1])
            assert (reply.status, words in reply.body.decode()) == ((200, False) if allowed else (403, True))
            refused = bad_requests.refused(grpc.StatusCode.PERMISSION_DENIED, words)
            with contextlib.nullcontext() if allowed else refused:
                assert running.call(f"{INFERENCE}ModelInfer", raw, metadata=shown)


def test_rest_returns_the_same_numbers(served: Server, models: Path) -> None:
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [5, 2], "data": ROWS.ravel().tolist()}],
        "outputs": [{"name": "y"}, {"name": NAME}],
    }
    response = http_client.infer(served, body, "exact").json
    own = response["outputs"][1]
    assert (own["name"], own["datatype"], own["shape"]) == (NAME, "FP32", [5, 1])
    np.testing.assert_array_equal(np.array(own["data"], np.float32).reshape(5, 1), expected(models, "exact"))
    assert response["parameters"]["kan.error_bar_unbounded_rows"] == 1
    metadata = http_client.ask(served, "/v2/models/exact").json
    assert metadata["parameters"][NAME].startswith(
        "error bars use rows of exact.npz with the factor 1; they assume that "
    )
    assert [output["name"] for output in metadata["outputs"]] == ["y"]


def test_the_client_returns_bars(served: Server, models: Path) -> None:
    wanted = expected(models, "exact")
    with Client(served.address) as client:
        own = client.infer(client.model("exact"), ROWS, outputs=["y", NAME])
        np.testing.assert_array_equal(own.outputs[NAME], wanted)
        assert own.columns()[NAME] == ("y0 error bar",)
        assert own.to_frame().shape == (5, 1)


def test_a_model_without_bars_rejects_the_request(served: Server) -> None:
    with bad_requests.refused(grpc.StatusCode.FAILED_PRECONDITION, "model 'plain' has no error bars") as caught:
        ask(served, "plain", ROWS, "y", NAME)
    assert bad_requests.code(caught.value) == "error-bars-missing"
    message = request(ROWS, "exact")
    message.outputs.add(name=NAME).parameters["classification"].int64_param = 1
    with pytest.raises(grpc.RpcError, match="cannot be combined with the parameter classification"):
        served.call(f"{INFERENCE}ModelInfer", message.SerializeToString())
    assert ask(served, "exact", ROWS, "y").outputs[0].name == "y"


def test_the_command_prints_bars_and_their_note(served: Server, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    target = tmp_path / "outputs.npz"
    words = ("--input", tmp_path / "rows.npy", "--error-bars", "--url", served.address)
    done = kanserve("infer", "noisy", *words, "--output", target)
    assert done.returncode == 0, done.stderr
    assert "warning: error bars are unreliable: assumption: the true function" in done.stderr
    with np.load(target) as arrays:
        np.testing.assert_array_equal(arrays[NAME], expected(models, "noisy"))
    lines = kanserve("infer", "exact", *words).stdout.splitlines()
    assert (lines[0], len(lines), lines[5].split(",")[1]) == ("y0,y0 error bar", 6, "inf")
    shown = document(kanserve("infer", "exact", *words, "--json"))
    assert shown["outputs"][NAME][4] == ["Infinity"]
    assert shown["notes"] == [
        "error bars: assumption: the true function is no steeper than the Lipschitz bounds of the network, and the "
        "targets have no noise"
    ]
    done = kanserve("infer", "plain", *words)
    assert done.returncode != 0
    assert "model 'plain' has no error bars" in done.stderr


def test_explanations_and_descriptions_have_the_bars(served: Server, models: Path) -> None:
    with Client(served.address) as client:
        described = client.describe("noisy")
        stored = manifest.load(models / "noisy" / "1").error_bars
        assert described.error_bars == dataclasses.replace(stored, x=(), errors=())
        assert not client.describe("plain").error_bars
        explained = client.explain(described, np.tile(ROWS, (300, 1)), outputs=[0]).error_bars  # more than a batch
        assert explained is not None
        np.testing.assert_array_equal(explained.bars, np.tile(expected(models, "noisy"), (300, 1)))
        assert (explained.assumption, explained.contradicted) == (stored.assumption, True)
        assert "noisy.npz contradict" in explained.note
        assert client.explain(client.describe("plain"), ROWS).error_bars is None
    response = http_client.ask(served, "/v1/kan/models/exact/explain", {"rows": ROWS.tolist()}).json
    own = response["error_bars"]
    np.testing.assert_array_equal(np.array(own["bars"], np.float32), expected(models, "exact"))
    assert own["contradicted"] is False
    assert "error_bars" not in http_client.ask(served, "/v1/kan/models/plain/explain", {"rows": ROWS.tolist()}).json


def test_the_commands_explain_and_models_show_bars(served: Server, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    words = ("--input", tmp_path / "rows.npy", "--url", served.address)
    bar = expected(models, "exact")[1, 0]
    shown = kanserve("explain", "exact", *words, "--row", 1).stdout
    assert f"error bar: ±{bar:.6g}\n" in shown
    assert "error bars: assumption: the true function is no steeper" in shown
    assert "error bar: none, the row is outside" in kanserve("explain", "exact", *words, "--row", 4).stdout
    assert "; UNRELIABLE" in kanserve("explain", "noisy", *words, "--row", 1).stdout
    kanserve("explain", "noisy", *words, "--output", tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as arrays:
        np.testing.assert_array_equal(arrays["error_bar"], expected(models, "noisy"))
    assert document(kanserve("explain", "noisy", *words, "--json"))["error_bars"]["contradicted"] is True
    for source in ((models, "exact"), ("exact", "--url", served.address)):
        listed = document(kanserve("models", *source, "--json"))
        assert listed["model"]["error_bars"].startswith("error bars use rows of exact.npz")
