"""`--quantize`: stored values and their meaning, quantized branches, verification and rejections."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.bundle import baseline
from kanexport.cli import export_command
from kanexport.errors import OptionError, OutputsDiffer, VerificationFailed
from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.lowering import lower
from kanexport.pipeline import Request, export
from kanexport.quantization import quantize
from kanexport.quantization.quantize import MAX_ERROR, QuantizationOptions
from kanexport.shared import manifest as manifests
from kanexport.shared.sections import FLOAT32, FP16_WEIGHTS, INT8, INT8_WEIGHTS
from kanexport.verify import test_points
from tests.support.command_line import checkpoint
from tests.support.golden_cases import case, exported, network, run
from tests.support.tiers import full, spread

DIGITS, WINE = "efficient-kan-digits", "efficient-kan-wine-update-grid"
SPLINES = (DIGITS, WINE, "pykan-hello-adapted", "pykan-mult-affine", "relu-kan-hello", "flashkan-ellipj")
FAMILIES = (*SPLINES, "fastkan-digits", "fasterkan-wine", "rbf-kan-diabetes")


def rounded(kan: Kan, query: QuantizationOptions) -> tuple[Kan, Any]:
    """A network in the fewest bits that it can have, and its graphs."""
    chosen = {
        (at, index): quantize.possible(layer, term, query.quantize)[0]
        for at, layer in enumerate(kan.layers)
        for index, term in enumerate(layer.terms)
    }
    served = quantize.served(kan, chosen)
    return served, lower.lower(served, "float32", curves=quantize.curves(served))


def verified(kan: Kan, served: Kan, lowered: Any, requested: QuantizationOptions) -> Any:
    network = quantize.QuantizedNetwork(kan, served, served, (), {}, np.zeros(0))
    return network.proof(lowered, requested, 1e-5, lambda done, total: None)


def save(path: Path, rows: np.ndarray) -> baseline.Rows:
    np.save(path, rows)
    return baseline.load(path, "--calibration")


def quantized(folder: Path, rows: np.ndarray) -> Any:
    return exported(DIGITS, folder, quantization=QuantizationOptions("int8", rows=save(folder / "x.npy", rows)))


@spread("method,name", itertools.product(["fp16-weights", "int8"], FAMILIES), 4)
def test_a_golden_model_in_fewer_bits_is_near_it_and_says_so(tmp_path: Path, name: str, method: str) -> None:
    query = QuantizationOptions(method)
    result = exported(name, tmp_path, quantization=query)
    stored_manifest = manifests.load(result.directory)
    actual = stored_manifest.approximation
    assert actual == result.manifest.approximation
    assert actual.quantize == query.quantize
    assert 0 < actual.error <= actual.max_error == MAX_ERROR[query.quantize]
    assert stored_manifest.notes[0] == actual.text
    assert actual.text.startswith("APPROXIMATE, as requested")
    assert all(zone.outputs_max_rel <= actual.max_error for zone in stored_manifest.verification.zones)
    assert {branch.form for branch in actual.branches} <= {INT8, INT8_WEIGHTS, FP16_WEIGHTS, FLOAT32}
    assert any(branch.form == query.quantize for branch in actual.branches)
    kan = network(name)
    x = test_points.zone_rows(kan.layers[0], kan.n_inputs, 0)["inside"]
    responses = run((result.directory / "model.onnx").read_bytes(), {"x": x.astype(np.float32)})["y"]
    assert quantize.errors(quantize.network_outputs(kan, x), responses.astype(float)).largest <= actual.max_error


@spread("name", ["pykan-hello-adapted", WINE, DIGITS], 1)
def test_a_response_does_not_depend_on_its_company_or_on_the_run(name: str) -> None:
    kan = network(name)
    _, lowered = rounded(kan, QuantizationOptions("int8"))
    x = test_points.zone_rows(kan.layers[0], kan.n_inputs, 1)["inside"][::5]
    x = np.concatenate([x, 50 * x]).astype(np.float32)  # with neighbours that are much larger
    for model in (lower.lower(kan, "float32").model, lowered.model):
        together = run(model, {"x": x})["y"]
        np.testing.assert_array_equal(run(model, {"x": x})["y"], together)
        alone = np.concatenate([run(model, {"x": x[at : at + 1]})["y"] for at in range(len(x))])
        same = (alone == together) | np.isnan(together)
        if model != lowered.model and not same.all():
            return  # sums of floats are in another order here, in the exact export too
    np.testing.assert_array_equal(alone, together)


def layer_of(rng: np.random.Generator, sources: int, destinations: int, intervals: int, *, uneven: bool) -> Layer:
    """Splines and a base branch, some edges masked, with weights that differ a lot from column to column."""
    knots = np.tile(np.linspace(-2, 2, intervals + 7), (sources, 1))
    if uneven:
        knots = np.sort(knots + rng.uniform(-0.1, 0.1, knots.shape), axis=1)
    shape = (sources, destinations)
    size = 10.0 ** rng.integers(-6, 1, size=(1, destinations, 1))
    terms = (
        BasisTerm(Activation(ACTIVATIONS["silu"]), size * rng.normal(size=(*shape, 1))),
        BasisTerm(BSpline(knots.astype(np.float32).astype(float), 3), size * rng.normal(size=(*shape, intervals + 3))),
    )
    mask = rng.choice([0.0, 0.3, 1.0], size=shape)
    return Layer(terms, mask, rng.normal(size=destinations), rng.choice([False, True], size=shape))


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 2**31),
    st.sampled_from(["fp16-weights", "int8"]),
)
@settings(max_examples=settings.default.max_examples // 10)
def test_any_network_is_served_as_what_its_rounded_numbers_mean(
    widths: list[int], intervals: int, uneven: bool, seed: int, method: str
) -> None:
    rng = np.random.default_rng(seed)
    layers = [layer_of(rng, *pair, intervals, uneven=uneven) for pair in itertools.pairwise(widths)]
    requested = QuantizationOptions(method, max_error=0.9)
    served, lowered = rounded(Kan(widths[0], tuple(layers)), requested)
    # Held against itself: what is left is the rounding of float32, and of values just on a step.
    actual = verified(served, served, lowered, requested)
    assert actual.reference.inputs
    assert actual.reference.tolerance <= 0.9


def test_on_the_digits_of_its_reference_no_output_is_another_digit(tmp_path: Path) -> None:
    values = case(DIGITS).reference()
    result = quantized(tmp_path, values["x"])
    actual = run((result.directory / "model.onnx").read_bytes(), {"x": values["x"].astype(np.float32)})["y"]
    finite = np.isfinite(values["y64"]).all(axis=1)
    assert (actual[finite].argmax(axis=1) == values["y64"][finite].argmax(axis=1)).all()
    assert result.manifest.approximation.changed == 0
    assert result.manifest.approximation.rows_from == "x.npy"
    assert result.manifest.approximation.rows_sha256


@full("combination")
@pytest.mark.parametrize(("method", "off"), [("int8", 1e-1), ("fp16-weights", 1e-2)])
def test_recorded_outputs_are_compared_with_the_quantized_graph(tmp_path: Path, method: str, off: float) -> None:
    recorded, quantization = case(WINE).path.parent / "reference.npz", QuantizationOptions(method)
    result = exported(WINE, tmp_path, quantization=quantization, expected_outputs=(recorded,)).manifest.verification
    assert result.basis == manifests.EXPECTED_OUTPUTS
    (check,) = result.expected_outputs
    values = case(WINE).reference()
    assert check.rows == len(values["x"])
    assert 0 < check.max_rel < off
    np.savez(tmp_path / "other.npz", x=values["x"], y=values["y"] * np.float32(1.001))
    with pytest.raises(OutputsDiffer, match="the nearest is"):
        exported(WINE, tmp_path, name="other", quantization=quantization, expected_outputs=(tmp_path / "other.npz",))


def test_a_graph_that_is_not_what_was_rounded_is_refused() -> None:
    kan = network(DIGITS)
    requested = QuantizationOptions("int8")
    served, lowered = rounded(kan, requested)
    model = onnx.load_model_from_string(lowered.model)
    codes = next(item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8)
    turned = np.frombuffer(codes.raw_data, np.int8).reshape(tuple(codes.dims))[::-1]
    verified(kan, served, lowered, requested)
    off_by_one = np.clip(turned[::-1].astype(int) + 1, -127, 127)  # far within the error that is allowed
    for wrong in (turned, off_by_one):
        codes.raw_data = np.ascontiguousarray(wrong.astype(np.int8)).tobytes()
        changed = dataclasses.replace(lowered, model=model.SerializeToString())
        with pytest.raises(VerificationFailed, match="the quantized graph matches its float64 reference on only"):
            verified(kan, served, changed, requested)


def test_edges_are_those_of_the_rounded_coefficients_and_are_smaller(tmp_path: Path) -> None:
    exact = exported(DIGITS, tmp_path, name="exact").directory
    kan = network(DIGITS)
    x = test_points.zone_rows(kan.layers[0], kan.n_inputs, 0)["inside"].astype(np.float32)
    for requested, times in ((QuantizationOptions("fp16-weights"), 1.8), (QuantizationOptions("int8"), 1.7)):
        directory = exported(DIGITS, tmp_path, name=requested.quantize, quantization=requested).directory
        for file in ("model.onnx", "edges_l0.onnx"):
            assert (directory / file).stat().st_size * times < (exact / file).stat().st_size
        edges = run(directory / "edges_l0.onnx", {"x": x})["edges"]
        nodes = run(directory / "model.onnx", {"x": x})["layer1_in"]
        near = 1e-5 if requested.quantize == FP16_WEIGHTS else 1e-2
        assert np.abs(edges.sum(axis=1) - nodes).max() <= near * np.abs(nodes).max()


def test_a_large_model_shares_what_it_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {}
    monkeypatch.setattr(lower, "SHARED_FROM", 1024)
    path = checkpoint(tmp_path / "m.safetensors", (64, 64, 10))
    ways = QuantizationOptions(), QuantizationOptions("fp16-weights"), QuantizationOptions("int8")
    for name, requested in zip(("exact", "half", "int8"), ways, strict=True):
        result = export(Request(path=path, repository=tmp_path, name=name, quantization=requested))
        sizes[name] = (result.directory / manifests.WEIGHTS_FILE).stat().st_size
    assert sizes["half"] < sizes["exact"] / 1.8
    assert sizes["int8"] < sizes["exact"] / 2.5


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for rows, message in (
        (np.zeros((4, 63)), r"--calibration x.npy has rows of shape \[63\], expected \[64\]"),
        (np.zeros((0, 64)), "--calibration x.npy has float64 of shape .*, expected 2 to 1000000 rows"),
        (np.where(np.eye(4, 64), np.nan, 0), "--calibration x.npy has nan in column 0 of row 0"),
        (np.where(np.eye(4, 64), np.inf, 0), "--calibration x.npy has inf in column 0 of row 0"),
    ):
        with pytest.raises(OptionError, match=message):
            quantized(tmp_path, rows)
    assert not list(tmp_path.rglob("manifest.json"))


def test_the_command_prints_what_is_approximate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(case(WINE).path), "--repository", str(tmp_path), *case(WINE).facts["export_args"], "--quantize"]
    assert export_command.main([*command, "int8"]) == 0
    printed = capsys.readouterr().out
    assert "APPROXIMATE, as requested (int8)" in printed
    assert "int8-weights" in printed
    assert export_command.main([*command, "fp16-weights", "--max-error", "1e-9", "--force"]) == 3
    assert "the worst branch is" in capsys.readouterr().err


@spread("name", ["sinekan-digits", "chebykan-digits-layernorm", "gr-kan-breast-cancer"], 1)
def test_other_families_store_bytes_where_they_have_no_sums_of_them(tmp_path: Path, name: str) -> None:
    result = exported(name, tmp_path, quantization=QuantizationOptions("int8", max_error=0.2)).manifest.approximation
    assert {branch.form for branch in result.branches} <= {INT8_WEIGHTS, FP16_WEIGHTS, FLOAT32}
    assert result.error <= 0.2


def test_a_branch_that_takes_more_than_its_share_stays_as_it_is(tmp_path: Path) -> None:
    bound = 5e-3
    quantization = QuantizationOptions("int8", max_error=bound)
    result = exported(DIGITS, tmp_path, quantization=quantization).manifest.approximation
    kept = [branch for branch in result.branches if branch.form in (FP16_WEIGHTS, FLOAT32)]
    assert kept
    assert any(branch.form == INT8 for branch in result.branches)
    assert all(branch.first > bound / 2 >= branch.error for branch in kept)
    assert any("since quantizing only this branch" in note for note in result.notes())


def test_too_large_an_error_and_nothing_to_quantize_are_refused(tmp_path: Path) -> None:
    text = r"no branch can be quantized .* the worst branch is \w+ of layer \d"
    with pytest.raises(VerificationFailed, match=text) as result:
        exported(DIGITS, tmp_path, quantization=QuantizationOptions("int8", max_error=1e-5))
    assert "set a larger --max-error" in result.value.hint
    with pytest.raises(VerificationFailed, match="nothing to quantize"):
        exported("wav-kan-dog-breast-cancer", tmp_path, quantization=QuantizationOptions("int8"))
    assert not list(tmp_path.rglob("manifest.json"))


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for more, message in (
        ({"quantization": QuantizationOptions("fp16-weights"), "dtype": "float64"}, "cannot be combined with"),
        ({"quantization": QuantizationOptions("fp16-weights"), "explain": True}, "cannot be combined with"),
        ({"quantization": QuantizationOptions("int4")}, "--quantize is 'int4', expected fp16-weights or int8"),
        ({"quantization": QuantizationOptions(max_error=0.1)}, "--max-error needs --quantize"),
        ({"quantization": QuantizationOptions("fp16-weights", max_error=float("nan"))}, "--max-error is nan"),
        ({"quantization": QuantizationOptions("fp16-weights", max_error=0.0)}, "--max-error is 0"),
    ):
        with pytest.raises(OptionError, match=message):
            exported("efficient-kan-wine-update-grid", tmp_path, **more)
