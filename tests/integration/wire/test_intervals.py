"""`kan.interval` of golden models over gRPC and REST: values, order, parameters, errors, and the mark of drift."""

import dataclasses
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from kanexport.bundle import calibration
from kanexport.pipeline import Request, export
from kanexport.shared import manifest
from kanserve.analysis import intervals
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as pb
from tests.support import bad_requests, http_client, toy_model
from tests.support.command_line import document, kanserve
from tests.support.golden_cases import cases
from tests.support.server_process import INFERENCE, SHARED, Server, request, serving
from tests.support.tiers import full
from tests.support.wait import until

RNG = np.random.default_rng(1)
ROWS = RNG.uniform(-1, 1, (5, 2)).astype(np.float32)


def exported(root: Path, name: str, golden: str, x: Any = None, y: Any = None, method: str = "") -> None:
    (case,) = (case for case in cases() if case.name == golden)
    wanted = calibration.NO_OPTIONS
    if x is not None:
        np.savez(root / f"{name}.npz", x=x, y=y)
        wanted = calibration.options(root / f"{name}.npz", 0.9, method)
    export(Request(path=case.path, repository=root / "m", name=name, options=case.options, intervals=wanted))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression by each method, a classifier, and a model without intervals."""
    root = tmp_path_factory.mktemp("intervals")
    x = RNG.uniform(-1, 1, (600, 2))
    y = np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2) + RNG.normal(size=600)
    for method in ("absolute", "normalized"):
        exported(root, method, "pykan-hello-adapted", x, y, method)
    exported(root, "sets", "efficient-kan-wine-update-grid", RNG.normal(size=(300, 13)), RNG.integers(0, 3, 300))
    exported(root, "plain", "pykan-hello-adapted")
    toy_model.write_slow(root / "m", "onnx", steps=1, size=2)
    return root / "m"


served = http_client.served(SHARED, "models", plain_onnx=True)


def ask(server: Server, model: str, rows: np.ndarray, *outputs: str) -> pb.ModelInferResponse:
    message = request(rows, model)
    for name in outputs:
        message.outputs.add(name=name)
    return pb.ModelInferResponse.FromString(server.call(f"{INFERENCE}ModelInfer", message.SerializeToString()))


def array(response: pb.ModelInferResponse, name: str) -> np.ndarray:
    dtypes = {"FP64": "<f8", "FP32": "<f4", "UINT8": "<u1"}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == name:
            return np.frombuffer(raw, dtypes[output.datatype]).reshape(output.shape)
    raise KeyError(name)


def bounds(server: Server, model: str, rows: np.ndarray = ROWS) -> np.ndarray:
    """The result over gRPC, with which the tests compare the other ways."""
    return array(ask(server, model, rows, intervals.NAME), intervals.NAME)


@pytest.mark.parametrize("method", ["absolute", "normalized"])
def test_intervals_are_those_of_the_manifest_around_unchanged_outputs(
    served: Server, models: Path, method: str
) -> None:
    section = manifest.load(models / method / "1").intervals
    plain = ask(served, method, ROWS)
    for _ in range(3):  # the cache of known requests does not learn it
        response = ask(served, method, ROWS, "y", intervals.NAME)
        assert [output.name for output in response.outputs] == ["y", intervals.NAME, intervals.OUT_OF_RANGE]
        assert response.raw_output_contents[0] == plain.raw_output_contents[0]
        np.testing.assert_array_equal(array(response, intervals.NAME), intervals.of(section, array(plain, "y")))
        assert response.parameters["kan.interval_method"].string_param == method
        assert response.parameters["kan.interval_coverage"].double_param == 0.9
    assert array(response, intervals.NAME).shape == (5, 1, 2)
    for wanted in ((intervals.NAME, "y"), (intervals.NAME,)):
        other = ask(served, method, ROWS, *wanted)
        assert [output.name for output in other.outputs] == [*wanted, intervals.OUT_OF_RANGE]
        assert other.raw_output_contents[0] == response.raw_output_contents[1]
    assert array(ask(served, method, ROWS[:0], "y", intervals.NAME), intervals.NAME).shape == (0, 1, 2)
    assert "kan.interval_method" not in plain.parameters


def test_sets_have_a_number_for_each_class(served: Server, models: Path) -> None:
    section = manifest.load(models / "sets" / "1").intervals
    rows = RNG.normal(size=(7, 13)).astype(np.float32)
    response = ask(served, "sets", rows, "y", intervals.NAME)
    sets = array(response, intervals.NAME)
    assert sets.dtype == np.uint8
    np.testing.assert_array_equal(sets, intervals.of(section, array(response, "y")))
    assert (sets.sum(axis=1) >= 1).all()
    assert response.parameters["kan.interval_method"].string_param == "lac"


def test_rest_returns_intervals_and_their_facts(served: Server) -> None:
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [5, 2], "data": ROWS.ravel().tolist()}],
        "outputs": [{"name": "y"}, {"name": intervals.NAME}],
    }
    response = http_client.infer(served, body, "normalized").json
    assert response["parameters"]["kan.interval_method"] == "normalized"
    assert response["parameters"]["kan.interval_coverage"] == 0.9
    own = response["outputs"][1]
    assert (own["name"], own["datatype"], own["shape"]) == (intervals.NAME, "FP64", [5, 1, 2])
    expected = bounds(served, "normalized")
    np.testing.assert_array_equal(np.array(own["data"]).reshape(5, 1, 2), expected)
    metadata = http_client.ask(served, "/v2/models/normalized").json
    assert metadata["parameters"][intervals.NAME].startswith("prediction intervals, normalized residuals: 90% coverage")
    assert [output["name"] for output in metadata["outputs"]] == ["y"]
    assert "parameters" not in http_client.ask(served, "/v2/models/plain").json


def test_metadata_and_configuration_name_the_intervals(served: Server) -> None:
    about = served.call(f"{INFERENCE}ModelMetadata", pb.ModelMetadataRequest(name="sets").SerializeToString())
    found = pb.ModelMetadataResponse.FromString(about).parameters[intervals.NAME].string_param
    with triton.InferenceServerClient(served.address) as client:
        assert {"kan_interval", "kan_error_bar"} <= set(client.get_server_metadata().extensions)
        assert found.startswith("prediction sets: 90% coverage, calibrated on 300 rows of sets.npz")
        assert client.get_model_config("sets").config.parameters[intervals.NAME].string_value == found
        assert intervals.NAME not in client.get_model_config("plain").config.parameters


def test_a_model_without_intervals_rejects_the_request(served: Server) -> None:
    with bad_requests.refused(
        grpc.StatusCode.FAILED_PRECONDITION, "model 'plain' has no prediction intervals"
    ) as caught:
        ask(served, "plain", ROWS, "y", intervals.NAME)
    assert bad_requests.code(caught.value) == "intervals-missing"
    with pytest.raises(grpc.RpcError, match="model 'onnx' has no prediction intervals"):
        ask(served, "onnx", ROWS[:1, :1], intervals.NAME)
    with bad_requests.refused(grpc.StatusCode.INVALID_ARGUMENT):
        ask(served, "absolute", ROWS, intervals.NAME, intervals.NAME)
    message = request(ROWS, "absolute")
    message.outputs.add(name=intervals.NAME).parameters["classification"].int64_param = 1
    with pytest.raises(grpc.RpcError, match="cannot be combined with the parameter classification"):
        served.call(f"{INFERENCE}ModelInfer", message.SerializeToString())
    assert array(ask(served, "absolute", ROWS, "y"), "y").shape == (5, 1)


@full("load")
def test_drift_marks_intervals_as_unreliable(models: Path) -> None:
    with serving(models, statistics="full") as server:

        def told(model: str, low: float) -> Any:
            """The parameters of new rows from `low` to 1."""
            return ask(server, model, RNG.uniform(low, 1, (250, 2)).astype(np.float32), intervals.NAME).parameters

        facts = ask(server, "absolute", ROWS, intervals.NAME).parameters
        assert "kan.interval_reliable" not in facts
        assert facts["kan.interval_note"].string_param == "drift is not measured: the server has sampled no rows yet"
        until(lambda: told("absolute", -1.0)["kan.interval_reliable"].bool_param)
        drifted = "drifted from the baseline: the largest PSI of"
        until(lambda: drifted in told("absolute", 0.6)["kan.interval_note"].string_param)
        assert told("absolute", 0.6)["kan.interval_reliable"].bool_param is False
        until(lambda: told("normalized", -1.0)["kan.interval_reliable"].bool_param)  # each version by itself


def test_a_server_without_statistics_leaves_the_reliability_open(models: Path) -> None:
    with serving(models, statistics="off") as server:
        facts = ask(server, "absolute", ROWS, intervals.NAME).parameters
        assert "kan.interval_reliable" not in facts
        assert "statistics is off" in facts["kan.interval_note"].string_param


def test_explanations_have_the_intervals_of_their_rows(served: Server, models: Path) -> None:
    with Client(served.address) as client:
        for method in ("absolute", "normalized"):
            explained = client.explain(client.describe(method), ROWS)
            assert explained.intervals is not None
            assert explained.intervals.method == method
            assert explained.intervals.bounds is not None
            np.testing.assert_allclose(explained.intervals.bounds, bounds(served, method), rtol=1e-6)
        rows = RNG.normal(size=(1100, 13)).astype(np.float32)  # more than a batch
        some = client.explain(client.describe("sets"), rows, outputs=[2])
        assert some.intervals is not None
        assert some.intervals.sets is not None
        assert some.intervals.sets.shape == (1100, 3)
        np.testing.assert_array_equal(some.intervals.sets[:1000], bounds(served, "sets", rows[:1000]))
        assert client.explain(client.describe("plain"), ROWS).intervals is None
        for name in ("absolute", "normalized", "sets", "plain"):
            stored = manifest.load(models / name / "1").intervals
            assert client.describe(name).intervals == dataclasses.replace(stored, low=(), high=())


def test_rows_out_of_range_are_marked_in_every_response(served: Server, tmp_path: Path) -> None:
    """Beyond the calibration rows, out of grid, and NaN; a client that reads only one flag knows it too."""
    rows = np.array([[0.1, 0.2], [1.1, 0], [0, -9], [np.nan, 0]], np.float32)
    marks, url = [False, True, True, True], ("--url", served.address)
    for model, wanted in (("absolute", marks), ("sets", [True])):
        sent = rows if model == "absolute" else np.full((1, 13), 90, np.float32)
        response = ask(served, model, sent, intervals.NAME, "y")
        assert [output.name for output in response.outputs] == [intervals.NAME, "y", intervals.OUT_OF_RANGE]
        assert array(response, intervals.OUT_OF_RANGE).astype(bool).tolist() == wanted
        assert response.parameters["kan.interval_reliable"].bool_param is False
        assert response.parameters["kan.interval_out_of_range_rows"].int64_param == sum(wanted)
        assert response.parameters["kan.interval_note"].string_param.startswith("rows are out of range: ")
    inside = ask(served, "absolute", rows[:1], intervals.NAME).parameters
    assert inside["kan.interval_out_of_range_rows"].int64_param == 0
    assert not inside["kan.interval_note"].string_param.startswith("rows are out of range")
    assert array(ask(served, "absolute", rows[:0], intervals.NAME), intervals.OUT_OF_RANGE).shape == (0,)
    with Client(served.address) as client:
        for model in ("absolute", "normalized", "plain"):  # explanations have marks without intervals too
            explained = client.explain(client.describe(model), np.tile(rows[:3], (400, 1)))  # more than a batch
            assert explained.out_of_range is not None
            assert explained.out_of_range.tolist() == [False, model != "plain", True] * 400
            assert explained.intervals is None or explained.intervals.reliable is False
        assert client.infer(client.model("absolute"), rows, outputs=["y"]).parameters == {}
    told = http_client.ask(served, "/v1/kan/models/absolute/explain", {"rows": rows[:3].tolist()}).json
    assert (told["out_of_range"], told["intervals"]["reliable"]) == ([0, 1, 1], False)
    np.save(tmp_path / "rows.npy", rows[:3])
    words = ("--input", tmp_path / "rows.npy", *url)
    for model, count in (("absolute", 2), ("plain", 1)):
        assert f"OUT OF RANGE: {count} of 3 rows are" in kanserve("explain", model, *words).stdout
        assert "OUT OF RANGE: the row is" in kanserve("explain", model, *words, "--row", 2).stdout
        assert "OUT OF RANGE" not in kanserve("explain", model, *words, "--row", 0).stdout
        shown = document(kanserve("explain", model, *words, "--json"))
        assert (shown["rows_out_of_range"], shown["out_of_range"]) == (count, [0, count - 1, 1])
    done = kanserve("infer", "absolute", *words, "--intervals")
    assert [line.rsplit(",", 1)[1] for line in done.stdout.splitlines()] == ["out of range", "0", "1", "1"]
    assert "warning: intervals are unreliable: rows are out of range" in done.stderr


def test_the_commands_show_intervals(served: Server, tmp_path: Path) -> None:
    rows, wine, target = (tmp_path / name for name in ("rows.npy", "wine.npy", "o.npz"))
    url = ("--url", served.address)
    np.save(rows, ROWS)
    np.save(wine, RNG.normal(size=(1, 13)).astype(np.float32))
    low, high = bounds(served, "absolute")[1, 0]
    done = kanserve("explain", "absolute", "--input", rows, "--row", 1, *url)
    assert f"90% prediction interval (absolute): {low:.6g} to {high:.6g}" in done.stdout, done.stderr
    kanserve("explain", "absolute", "--input", rows, "--output", target, *url)
    with np.load(target) as arrays:
        assert arrays["interval"].shape == (5, 1, 2)
    assert "90% prediction set: y" in kanserve("explain", "sets", "--input", wine, *url).stdout
    said = document(kanserve("explain", "sets", "--input", wine, "--json", *url))
    assert said["intervals"]["method"] == "lac"
    asked = ("infer", "absolute", "--input", rows, "--intervals", *url)
    lines = kanserve(*asked).stdout.splitlines()
    assert (lines[0], len(lines)) == ("y0,y0 lower,y0 upper,out of range", 6)
    assert [float(text) for text in lines[2].split(",")[1:]] == [low, high, 0]
    old = kanserve("infer", "absolute", "--input", rows, "--interval", *url)
    assert (old.stdout.splitlines(), "warning: --interval is now --intervals" in old.stderr) == (lines, True)
    kanserve(*asked, "--output", tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text().splitlines() == lines
    assert [low, high] == document(kanserve(*asked, "--json"))["outputs"][intervals.NAME][1][0]
    kanserve("infer", "sets", "--input", wine, "--intervals", "--output", target, *url)
    with np.load(target) as arrays:
        shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {"y": (1, 3), intervals.NAME: (1, 3), intervals.OUT_OF_RANGE: (1,)}
    done = kanserve("infer", "plain", "--input", rows, "--intervals", *url)
    assert done.returncode != 0
    assert "has no prediction intervals" in done.stderr
    shown = document(kanserve("models", "absolute", "--json", *url))
    assert shown["model"]["intervals"].startswith("prediction intervals, absolute residuals: 90% coverage")
