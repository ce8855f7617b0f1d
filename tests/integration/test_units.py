"""Models with scalers: served predictions, insight and errors are in the user's units.

A twin, the golden model without scalers, is served next to each model. The tests scale its rows and predictions with
numpy.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as triton

from kanexport.errors import OptionError, OutputsDiffer
from kanexport.pipeline import Request, export
from kanexport.quantization.quantize import QuantizationOptions
from kanexport.shared import custom_ops, grids, manifest
from kanexport.shared.manifest import Manifest
from kanexport.shared.naming import Names
from kanserve.client.sync import Client
from kanserve.errors import LoadError
from kanserve.runtime import ort
from kanserve.runtime.base import SessionOptions
from kanserve.sandbox.verify import check_reference
from tests.support import c_code, http_client
from tests.support.command_line import document, exported, kanserve
from tests.support.golden_cases import Case, cases
from tests.support.golden_cases import case as case_of
from tests.support.server_process import Server, serving
from tests.support.tiers import full, spread

HELLO, SYMBOLIC, WINE = "pykan-hello-adapted", "pykan-hello-symbolic", "efficient-kan-wine-update-grid"
STANDARD = (HELLO, WINE, "pykan-prune-input", SYMBOLIC)
NEAR = 2e-4  # of a scale: rounding of requests and predictions to float32, at offsets of up to 500 scales


@dataclass(frozen=True)
class Pair:
    """A model with scalers, its twin without, its manifest, and the numbers of the scalers [n] and [m]."""

    name: str
    twin: str
    manifest: Manifest
    offset: np.ndarray
    scale: np.ndarray
    offset_out: np.ndarray
    scale_out: np.ndarray

    def rows(self, count: int, seed: int = 0) -> np.ndarray:
        """Rows in the user's units, most of them in the grid."""
        draws = np.random.default_rng(seed).uniform(-1.2, 1.2, (count, len(self.scale)))
        return (draws * self.scale + self.offset).astype(np.float32)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        return ((x.astype(np.float64) - self.offset) / self.scale).astype(np.float32)

    def back(self, y: np.ndarray) -> np.ndarray:
        return y.astype(np.float64) * self.scale_out + self.offset_out


def write(folder: Path, name: str, **document: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({key: np.asarray(value).tolist() for key, value in document.items()}))
    return path


def twin_folder(name: str) -> Path:
    """The version of a golden model without scalers."""
    case = case_of(name)
    return exported(case.path, name, *case.facts["export_args"]) / name / "1"


def pair(root: Path, twin: str, name: str, **more: Any) -> Pair:
    """Export a golden checkpoint with random scalers into `root`/models."""
    case, rng, plain = case_of(twin), np.random.default_rng(3), manifest.load(twin_folder(twin))
    inputs, outputs = plain.input.shape[1], plain.output.shape[1]
    scale, scale_out = np.exp(rng.normal(size=inputs)), np.exp(2 * rng.normal(size=outputs))
    offset, offset_out = rng.uniform(-300, 300, inputs) * scale, rng.uniform(-300, 300, outputs) * scale_out
    result = export(
        Request(
            path=case.path,
            repository=root / "models",
            name=name,
            options=case.options,
            input_scaler=write(root / name, "inputs.json", mean=offset, scale=scale),
            output_scaler=write(root / name, "outputs.json", mean=offset_out, scale=scale_out),
            **more,
        )
    )
    return Pair(name, twin, result.manifest, offset, scale, offset_out, scale_out)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("units")


@pytest.fixture(scope="module")
def pairs(root: Path) -> dict[str, Pair]:
    return {name: pair(root, name, f"{name}-scaled") for name in STANDARD}


@pytest.fixture(scope="module")
def served(root: Path, pairs: dict[str, Pair]) -> Iterator[Server]:
    for name in pairs:
        shutil.copytree(twin_folder(name).parent, root / "models" / name)
    with serving(root / "models", **http_client.way("asgi")[1]) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Server) -> Iterator[Client]:
    with Client(served.address) as running:
        yield running


@spread("name", STANDARD, 1)
def test_curves_of_the_first_layer_are_over_the_user_s_units(name: str, pairs: dict[str, Pair], client: Client) -> None:
    """The domain is that of the grid, phi is the twin's."""
    own = pairs[name]
    (curves,), (twin,) = (client.curves(model, layers=[0], derivative=True) for model in (own.name, own.twin))
    columns = [source.node for source in grids.sources(own.manifest.layers[0]) or ()]
    offset, scale = own.offset[columns][:, None], own.scale[columns][:, None]
    assert set(curves.domains) <= {"grid", "assumed"}
    by_grid = np.array(curves.domains) == "grid"
    assert by_grid.any()
    np.testing.assert_allclose(((curves.x - offset) / scale)[by_grid], twin.x[by_grid], atol=NEAR)
    np.testing.assert_allclose(curves.phi[by_grid], twin.phi[by_grid], atol=2e-3 * np.abs(twin.phi).max())
    assert curves.derivative is not None
    assert twin.derivative is not None
    slopes = (curves.derivative * scale[:, :, None])[by_grid]
    np.testing.assert_allclose(slopes, twin.derivative[by_grid], atol=0.1 * np.abs(twin.derivative).max())


@spread("name", STANDARD, 1)
def test_contributions_are_in_the_units_of_the_outputs(name: str, pairs: dict[str, Pair], client: Client) -> None:
    own = pairs[name]
    x, reference = own.rows(8), own.rows(1, seed=1)
    for method in ("rescale", "gradient_x_input"):
        actual = client.explain(own.name, x, method=method, reference=reference)
        twin = client.explain(own.twin, own.scaled(x), method=method, reference=own.scaled(reference))
        size = np.abs(twin.contributions).max()
        np.testing.assert_allclose(actual.contributions / own.scale_out, twin.contributions, atol=2e-2 * size)
        np.testing.assert_allclose((actual.base - own.offset_out) / own.scale_out, twin.base, atol=1e-3 * size)
        assert method != "rescale" or np.abs(actual.completeness_error / own.scale_out).max() <= 5e-3 * size
    actual, twin = (client.explain(model, own.rows(2)) for model in (own.name, own.twin))
    assert actual.reference == twin.reference
    assert actual.reference == "grid_center" or name != HELLO
    np.testing.assert_allclose((actual.base - own.offset_out) / own.scale_out, twin.base, atol=2e-3)


@spread("name", STANDARD, 1)
def test_scores_and_coverage_are_those_of_the_twin(name: str, pairs: dict[str, Pair], client: Client) -> None:
    own = pairs[name]
    x = own.rows(50)
    actual, twin = client.scores(own.name, x), client.scores(own.twin, own.scaled(x))
    for layer, expected in zip(actual.layers, twin.layers, strict=True):
        np.testing.assert_allclose(layer.edges, expected.edges, rtol=5e-3, atol=1e-3)
    measured, expected_cells = client.coverage(own.name, x), client.coverage(own.twin, own.scaled(x))
    np.testing.assert_allclose(measured.cells, expected_cells.cells, atol=5e-3)
    assert (measured.counts == expected_cells.counts).mean() > 0.97
    assert measured.counts[:, :, 1:].any()


def test_descriptions_have_the_scalers_of_their_model(pairs: dict[str, Pair], served: Server, client: Client) -> None:
    own = pairs[HELLO]
    assert client.describe(own.name).scalers.inputs.offset == tuple(own.offset.tolist())
    assert not client.describe(own.twin).scalers
    with triton.InferenceServerClient(served.address) as other:
        known, bare = (other.get_model_config(name).config.parameters for name in (own.name, own.twin))
    assert known["kan.input_scaler"].string_value.startswith("standard (inputs.json): x0: mean ")
    assert known["kan.output_scaler"].string_value.startswith("standard (outputs.json): y0: mean ")
    assert "kan.input_scaler" not in bare


def test_a_formula_of_the_model_computes_its_predictions(pairs: dict[str, Pair], served: Server) -> None:
    own = pairs[SYMBOLIC]
    done = kanserve("formula", own.name, "--url", served.address, "--digits", "9")
    assert done.returncode == 0, done.stderr
    x = own.rows(20)
    (line,) = done.stdout.splitlines()  # a line to copy is not folded
    name, _, expression = line.partition(" = ")
    assert name == "y0"
    known = {"exp": np.exp, "sin": np.sin, "x0": x[:, 0].astype(float), "x1": x[:, 1].astype(float)}
    actual = eval(expression, {"__builtins__": {}}, known)
    predicted = served.infer(x, own.name)[:, 0]
    assert np.abs((actual - predicted) / own.scale_out[0]).max() <= 1e-3
    short = kanserve("formula", own.name, "--url", served.address, "--digits", "3").stdout.strip()
    actual = eval(short.partition(" = ")[2], {"__builtins__": {}}, known)  # the offsets have more digits than the rest
    assert np.abs((actual - predicted) / own.scale_out[0]).max() <= 0.1
    sign = "-" if own.offset[0] > 0 else "+"
    assert f"(x0 {sign} {abs(own.offset[0]):.3g}"[:8] in expression
    latex = kanserve("formula", own.name, "--url", served.address, "--latex", "--digits", "3").stdout
    assert re.search(rf"x_\{{?0\}}? {re.escape(sign)} {abs(own.offset[0]):.2f}"[:14], latex), latex


def test_commands_show_the_scalers(root: Path, pairs: dict[str, Pair], served: Server) -> None:
    own = pairs[HELLO]
    expected = f"input scaler: standard (inputs.json): x0: mean {own.offset[0]:.9g}, scale {own.scale[0]:.9g}"
    for target in ((own.name, "--url", served.address), (f"{root / 'models'}", own.name)):
        done = kanserve("models", *target)
        assert expected in done.stdout, done.stderr
        assert "output scaler: standard (outputs.json): y0: mean" in done.stdout
        model = document(kanserve("models", *target, "--json"))["model"]
        assert model["scalers"]["inputs"]["kind"] == "standard"
    done = kanserve("report", own.name, "--url", served.address, "--output", root / "card.html")
    assert done.returncode == 0, done.stderr
    assert "Input scaler" in (root / "card.html").read_text()


VARIANTS: dict[str, dict[str, Any]] = {
    "clamp": {"out_of_range": "clamp"},
    "int8": {"quantization": QuantizationOptions("int8", None, None)},
    "fp16": {"quantization": QuantizationOptions("fp16-weights", None, None)},
    "float64": {"dtype": "float64"},
    "explain": {"explain": True},
    "kernel": {"kernel": True},
    "reject": {"out_of_range": "reject"},
}


@pytest.fixture(scope="module")
def variants(root: Path, pairs: dict[str, Pair]) -> dict[str, Pair]:
    """The same network and scalers, exported in each way, with rows in the user's units as baseline, in a separate
    repository, with a twin that has the scaled rows as baseline."""
    rows, folder, result = root / "rows.npy", root / "variants", {}
    np.save(rows, pairs[WINE].rows(200, seed=5))
    for name, options in VARIANTS.items():
        if name != "kernel" or custom_ops.library():
            result[name] = pair(folder, WINE, name, baseline=rows, **options)
    np.save(root / "scaled.npy", (np.load(rows) - pairs[WINE].offset) / pairs[WINE].scale)
    case, models = case_of(WINE), folder / "models"
    export(Request(path=case.path, repository=models, name="twin", options=case.options, baseline=root / "scaled.npy"))
    return result


@pytest.fixture(scope="module")
def various(root: Path, variants: dict[str, Pair]) -> Iterator[Server]:
    """A server of the variants."""
    with serving(root / "variants" / "models", **http_client.way("asgi")[1]) as running:
        yield running


def run(graph: Path, x: np.ndarray, output: str = "y") -> np.ndarray:
    """A graph in onnxruntime."""
    options = onnxruntime.SessionOptions()
    if custom_ops.library():
        options.register_custom_ops_library(str(custom_ops.library()))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {"x": x})[0])


@full("combination")
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_form_of_the_graph_has_the_scalers(root: Path, variants: dict[str, Pair], variant: str) -> None:
    if variant not in variants:
        pytest.skip("kanserve-kernel is not installed")
    own, folder = variants[variant], root / "variants" / "models" / variant / "1"
    x = own.rows(64).astype(np.float64 if variant == "float64" else np.float32)
    z = (x.astype(np.float64) - own.offset) / own.scale
    if variant == "clamp":
        x = (x + 50 * own.scale).astype(np.float32)
        clip = own.manifest.layers[0].pre_steps[-1]
        z = np.clip((x.astype(np.float64) - own.offset) / own.scale, clip.scale, clip.bias)
    expected = own.back(run(twin_folder(WINE) / "model.onnx", z.astype(np.float32)))
    allowed = {"int8": 0.05, "fp16": 5e-3}.get(variant, 2 * NEAR) * np.abs(expected - own.offset_out).max(axis=0)
    more = {"explain": ["explain.onnx"], "kernel": ["model.kernel.onnx"]}.get(variant, [])
    for file in ("model.onnx", *more):
        assert (np.abs(run(folder / file, x) - expected) <= allowed).all(), file
    if variant == "explain":
        contributions = run(folder / "explain.onnx", x, "contributions")
        total = contributions.sum(axis=1) + np.array(own.manifest.explanations.base)
        assert np.abs((total - run(folder / "explain.onnx", x)) / own.scale_out).max() <= 1e-2
        assert np.abs(contributions / own.scale_out).max() > 0.1


@full("package")
def test_the_c_code_takes_the_user_s_units(root: Path, pairs: dict[str, Pair]) -> None:
    """The exporter compiles the code, and compares it with float64 in the network's units."""
    case, own, folder = case_of(HELLO), pairs[HELLO], root / "code"
    result = export(
        Request(
            path=case.path,
            repository=None,
            name="net",
            options=case.options,
            input_scaler=root / own.name / "inputs.json",
            output_scaler=root / own.name / "outputs.json",
            code=folder,
        )
    )
    assert result.code is not None
    assert result.code.contributes
    assert "the code applies the scalers inputs.json and outputs.json" in (folder / "net.h").read_text()
    c_code.needs("cc")
    x = own.rows(8)
    actual = c_code.numbers(c_code.compile_and_run(["cc", "-O1"], c_code.main_of(x), folder))
    expected = run(root / "models" / own.name / "1" / "model.onnx", x)
    np.testing.assert_allclose((actual - expected) / own.scale_out, 0, atol=NEAR)


@full("combination")
def test_drift_compares_the_user_s_units(root: Path, variants: dict[str, Pair], various: Server) -> None:
    """The bins of the baseline are the knots in the user's units; drift equals that of the twin."""
    own = variants["explain"]
    shifted = np.load(root / "rows.npy")[:100] + 0.4 * own.scale
    with Client(various.address) as client:
        actual = client.drift(own.name, shifted.astype(np.float32))
        twin = client.drift("twin", own.scaled(shifted))
    for layer, expected in zip(actual.nodes, twin.nodes, strict=True):
        np.testing.assert_allclose(layer.psi, expected.psi, rtol=0.1, atol=0.05)
    first, other = actual.nodes[0], twin.nodes[0]
    assert first.origins == other.origins == ("grid",) * len(own.scale)
    for at in range(len(own.scale)):
        bounds = other.bounds[at] * own.scale[at] + own.offset[at]
        np.testing.assert_allclose(first.bounds[at], bounds, rtol=1e-6)
    np.testing.assert_allclose(first.mean, shifted.mean(axis=0), rtol=1e-4)


@full("combination")
def test_an_error_names_a_value_and_its_range_in_the_user_s_units(variants: dict[str, Pair], various: Server) -> None:
    own, x = variants["reject"], variants["reject"].rows(3)
    grid = grids.of_knots("bspline", 8, grids.knots(own.manifest.layers[0], 4)[1])
    assert grid is not None
    x[1, 4] = own.offset[4] + 40 * own.scale[4]
    with pytest.raises(grpc.RpcError) as caught:
        various.infer(x, own.name)
    text = caught.value.details()
    assert f"row 1: 'x4' is {x[1, 4]:.6g} for model" in text
    found = re.search(r"outside its range (\S+) to (\S+) \(rows outside: 1 of 3\)", text)
    assert found is not None
    np.testing.assert_allclose([float(found[1]), float(found[2])], [grid.first, grid.last], rtol=1e-5)


@full("combination")
def test_expected_outputs_are_those_of_the_trained_model(root: Path, pairs: dict[str, Pair]) -> None:
    """The library's outputs for scaled rows. The same file fails for another model."""
    own, case = pairs[HELLO], case_of(HELLO)
    reference = case.reference()
    finite = np.isfinite(reference["x"]).all(axis=1)
    recorded = root / "recorded.npz"
    np.savez(recorded, x=reference["x"][finite], y=reference["y64"][finite].astype(np.float32))
    folder = root / own.name
    fields: dict[str, Any] = {
        "path": case.path,
        "repository": root / "expected",
        "options": case.options,
        "input_scaler": folder / "inputs.json",
        "output_scaler": folder / "outputs.json",
    }
    for name, more in (("plain", {}), ("clamp", {"out_of_range": "clamp"})):
        result = export(Request(name=name, expected_outputs=(recorded,), **fields, **more))
        assert result.manifest.verification_basis == "expected-outputs"
    np.savez(root / "wrong.npz", x=reference["x"][finite], y=own.back(reference["y64"][finite]).astype(np.float32))
    with pytest.raises(OutputsDiffer):
        export(Request(name="wrong", expected_outputs=(root / "wrong.npz",), **fields))
    assert not (root / "expected" / "wrong").exists()


@full("combination")
def test_a_folder_of_checkpoints_shares_a_scaler(tmp_path: Path) -> None:
    """A checkpoint of another width is rejected, the others are exported."""
    for name in (HELLO, "pykan-diabetes"):
        shutil.copytree(case_of(name).path.parent, tmp_path / "runs" / name)
    path = write(tmp_path, "inputs.json", min=[0, 0], max=[10, 20], columns=["width", "height"])
    done = kanserve(
        *("export", tmp_path / "runs", "--recursive", "--repository", tmp_path / "models"),
        *("--input-scaler", path, "--json"),
    )
    result = json.loads(done.stdout)
    states = {entry["path"].split("/")[0]: entry for entry in result["files"]}
    assert states[HELLO]["scalers"]["inputs"]["kind"] == "min-max"
    assert states["pykan-diabetes"]["error"]["code"] == "scaler-wrong-length"
    assert result["exported"] == 1


@full("combination")
def test_columns_of_the_file_name_the_inputs(tmp_path: Path) -> None:
    case = case_of(HELLO)
    path = write(tmp_path, "inputs.json", mean=[1, 2], scale=[3, 4], columns=["width", "height"])
    fields: dict[str, Any] = {"path": case.path, "options": case.options, "input_scaler": path}
    named = export(Request(repository=tmp_path / "a", name="m", **fields)).manifest
    assert named.names.features == ("width", "height")
    assert "the columns of inputs.json name the inputs: 'width', 'height'" in named.notes
    swapped = Names(("height", "width"), (), (), "")
    moved = export(Request(repository=tmp_path / "b", name="m", names=swapped, **fields)).manifest
    assert (moved.scalers.inputs.offset, moved.names) == ((2.0, 1.0), swapped)
    path.write_text('{"mean": [1, 2], "scale": [3, 4], "columns": ["width", " "]}')
    with pytest.raises(OptionError, match="is not a valid name"):
        export(Request(repository=tmp_path / "c", name="m", **fields))
    assert not (tmp_path / "c" / "m").exists()


def test_tables_of_edges_state_the_unit_of_the_last_layer(pairs: dict[str, Pair], served: Server, root: Path) -> None:
    own = pairs[HELLO]
    expected = f"edges of layer 1 are scaled: 1 is {own.scale_out[0]:.6g} of y0"
    np.save(root / "some.npy", own.rows(5))
    for command in (("curves",), ("curves", "--layer", "1", "--source", "0"), ("edges", "--input", root / "some.npy")):
        first, *options = command
        assert expected in kanserve(first, own.name, "--url", served.address, *options).stdout, command
        assert "are scaled" not in kanserve(first, own.twin, "--url", served.address, *options).stdout
    assert "are scaled" not in kanserve("curves", own.name, "--url", served.address, "--layer", "0").stdout


def test_the_load_check_finds_one_wrong_column(root: Path, pairs: dict[str, Pair]) -> None:
    """A graph that another machine would compute with an error of 2% of a scale."""
    own = pairs[WINE]
    data = (root / "models" / own.name / "1" / "model.onnx").read_bytes()
    check_reference(own.manifest, ort.create(data, SessionOptions("cpu", 1)))
    for number, scale in ((own.offset_out, own.scale_out), (own.scale, own.scale)):
        graph, stored = onnx.load_from_string(data), number.astype(np.float32)
        (constant,) = [
            tensor
            for tensor in graph.graph.initializer
            if onnx.numpy_helper.to_array(tensor).ravel().tolist() == stored.tolist()
        ]
        stored[1] += 0.02 * scale[1]
        constant.CopyFrom(onnx.numpy_helper.from_array(stored.reshape(tuple(constant.dims)), constant.name))
        with pytest.raises(LoadError, match="reference outputs differ"):
            check_reference(own.manifest, ort.create(graph.SerializeToString(), SessionOptions("cpu", 1)))


@spread("case", cases()[1::2], 2, ids=lambda case: case.name)
def test_every_library_is_served_in_the_user_s_units(case: Case, tmp_path: Path) -> None:
    """On the rows of the library's reference that are in its range, against the graph without scalers."""
    own = pair(tmp_path, case.name, case.name)
    rows = case.reference()["x"]
    x = (rows[(np.abs(rows) < 5).all(axis=1)] * own.scale + own.offset).astype(np.float32)
    actual = run(tmp_path / "models" / own.name / "1" / "model.onnx", x)
    twin = run(twin_folder(case.name) / "model.onnx", own.scaled(x))
    finite = np.isfinite(twin).all(axis=1)
    assert finite.sum() > 5
    error = np.abs((actual - own.offset_out) / own.scale_out - twin)[finite]
    assert error.max() <= NEAR * max(1.0, np.abs(twin[finite]).max())
