"""Knots that float32 rounding makes uneven: closed form if verification passes, otherwise as stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform_bspline import NEAR, UniformSpline, departure
from kanexport.errors import InvalidKan
from kanexport.ir.model import Kan
from kanexport.lowering import lower, spline_forms
from kanexport.pipeline import Request, export
from kanexport.verify import verify
from kanexport.verify.verify import near_knot_excess
from tests.kanexport.lowering.test_spline_forms import layer, operators
from tests.support.tiers import full, spread


def rounded(sources: int, intervals: int, degree: int = 3, low: float = -1.0, high: float = 1.0) -> BSpline:
    """As efficient-kan makes them: a float32 step times whole numbers."""
    step = np.float32((high - low) / intervals)
    row = np.arange(-degree, intervals + degree + 1).astype(np.float32) * step + np.float32(low)
    return BSpline(np.tile(row.astype(np.float64), (sources, 1)), degree)


def own(sources: int, intervals: int, degree: int = 3) -> BSpline:
    """A separate range for each source."""
    cells = np.arange(-degree, intervals + degree + 1)
    low = np.random.default_rng(1).uniform(-2, 0, size=(sources, 1))
    width = np.random.default_rng(2).uniform(0.5, 3, size=(sources, 1))
    return BSpline((low + width / intervals * cells).astype(np.float32).astype(np.float64), degree)


def checkpoint(folder: Path, basis: list[BSpline], widths: list[int]) -> Path:
    rng, tensors = np.random.default_rng(0), {}
    for at, (spline, n, m) in enumerate(zip(basis, widths, widths[1:], strict=False)):
        tensors |= {
            f"layers.{at}.grid": spline.extended,
            f"layers.{at}.base_weight": rng.normal(size=(m, n)) / n**0.5 * 0.4,
            f"layers.{at}.spline_weight": rng.normal(size=(m, n, spline.functions)) / n**0.5 * 0.9,
            f"layers.{at}.spline_scaler": rng.uniform(0.5, 1.5, size=(m, n)),
        }
    path = folder / "model.safetensors"
    save_file({key: value.astype(np.float32) for key, value in tensors.items()}, path)
    return path


def sent(folder: Path, basis: list[BSpline], widths: list[int], **more: Any) -> Any:
    return export(Request(path=checkpoint(folder, basis, widths), repository=folder / "models", name="m", **more))


def about_knots(result: Any) -> list[str]:
    return [note for note in result.manifest.notes if note.startswith("knots of")]


def test_a_fine_grid_takes_the_closed_form_and_the_manifest_says_how_far_off_it_is(tmp_path: Path) -> None:
    result = sent(tmp_path, [rounded(20, 50), rounded(18, 50)], [20, 18, 3])
    (note,) = about_knots(result)
    assert note.startswith("knots of layers 0 (to 1.")
    assert "count as uniform; outputs differ by at most " in note
    actual = operators((result.directory / "model.onnx").read_bytes())
    assert actual.count("HardSigmoid") == 4
    assert "Slice" not in actual
    proof = result.manifest.verification
    assert max(zone.outputs_max_rel for zone in proof.zones) <= proof.outputs_tolerance == 1e-5
    assert {zone.name for zone in proof.zones} >= {"inside", "extension", "knots", "far", "nonfinite"}


@full("combination")
def test_where_the_proof_fails_knots_stay_as_stored_and_the_manifest_says_why(tmp_path: Path) -> None:
    result = sent(tmp_path, [rounded(20, 400), rounded(18, 50)], [20, 18, 3], tolerance=4e-6)
    refusal, *_ = about_knots(result)
    assert "layers 0 (to " in refusal
    assert "were tested as uniform: " in refusal
    assert "rows differ by " in refusal
    assert "4.0e-06" in refusal
    assert operators((result.directory / "model.onnx").read_bytes()).count("HardSigmoid") < 4


@spread("degree,grid", [(1, own), (2, rounded), (4, own), (5, rounded), (6, own), (6, rounded)], 2)
def test_other_degrees_have_one_too(degree: int, grid: Any) -> None:
    kan = Kan(20, (layer(grid(20, 8, degree)),))
    assert list(spline_forms.uniform_layers(kan, "float32")) == [0]
    created = lower.lower(kan, "float32", near=(0,))
    assert near_knot_excess(verify.verify(kan, created, "float32").verification) == ""
    plain = lower.lower(kan, "float32")
    assert len(operators(created.model)) < len(operators(plain.model))


def test_float64_few_sources_and_knots_that_are_further_off_keep_their_knots() -> None:
    kan = Kan(20, (layer(rounded(20, 50)),))
    assert list(spline_forms.uniform_layers(kan, "float32")) == [0]
    assert spline_forms.uniform_layers(kan, "float64") == {}
    few = Kan(6, (layer(rounded(6, 50), 3),))
    assert spline_forms.narrow(few.layers[0])  # another form, which has the stored knots
    assert spline_forms.uniform_layers(few, "float32") == {}
    moved = rounded(20, 50).extended.copy()
    moved[2, 7] += 3 * NEAR * 0.04
    assert spline_forms.uniform_layers(Kan(20, (layer(BSpline(moved, 3)),)), "float32") == {}
    with pytest.raises(InvalidKan, match="have no closed form"):
        UniformSpline(BSpline(moved, 3))


def test_coefficients_are_fitted_to_what_is_emitted() -> None:
    spline = rounded(1, 100)
    basis = UniformSpline(spline)
    x = np.linspace(spline.extended[0, 0], spline.extended[0, -1], 5000)[:, None]
    exact, near = spline.evaluate(x)[:, :, 0], basis.closed(x)
    assert basis.fit is not None
    coefficients = np.random.default_rng(0).normal(size=(spline.functions, 50))
    before, after = (np.abs(near @ c - exact @ coefficients).max() for c in (coefficients, basis.fit @ coefficients))
    assert after < 0.7 * before
    assert 1e-7 < departure(spline) < NEAR
