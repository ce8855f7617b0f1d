"""Ambiguous checkpoints: recorded outputs decide if the first interpretation fails or several forward variants fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import ExportError, OpenQuestion
from kanexport.pipeline import Request, export
from kanexport.shared import manifest
from kanexport.verify import float64_reference
from tests.kanexport.test_options import RNG, floats
from tests.support.small_checkpoints import chebyshev, decided, read, refuse, save, stacked
from tests.support.tiers import full


def moved_ramps(grid: int, k: int, n: int, m: int) -> dict[str, Any]:
    """A ReLU-KAN layer that training has moved far."""
    low = np.tile(np.arange(-k, grid) / grid, (n, 1)) + RNG.normal(0, 1, size=(n, grid + k)) / grid
    return {
        "phase_low": low.astype(np.float32),
        "phase_height": (low + np.abs(RNG.normal(1, 0.5, size=low.shape))).astype(np.float32),
        "equal_size_conv.weight": floats(m, 1, grid + k, n),
        "equal_size_conv.bias": floats(m),
    }


def test_expected_outputs_tell_k_of_a_relu_kan(tmp_path: Path) -> None:
    tensors = stacked([moved_ramps(4, 2, 3, 4), moved_ramps(4, 2, 4, 2)])
    path = save(tmp_path, tensors)
    question = refuse(tmp_path, tensors)
    assert isinstance(question, OpenQuestion)
    assert (question.key, question.among) == ("k", tuple("012345"))
    kan, _ = read(path, "k=2")
    assert kan.layers[0].terms[0].basis.rate == 4 * 4**2 / 3**2
    x = RNG.uniform(-0.5, 1.5, size=(60, 3)).astype(np.float32)
    result = decided(path, x, float64_reference.evaluate(kan, x.astype(np.float64)).y)
    assert result.manifest.source.options_decided["k"] == "2"
    assert result.manifest.verification_basis == manifest.EXPECTED_OUTPUTS


@pytest.mark.parametrize("bare", [False, True])
def test_expected_outputs_tell_which_inputs_were_kept(pykan: Any, tmp_path: Path, bare: bool) -> None:
    toy = pykan([2, 3, 1])
    pruned = toy.write(tmp_path)
    kept = [3, 4]
    path = pruned if not bare else save(tmp_path, toy.tensors)
    supplied = ("input_id=3,4", "n_inputs=5")
    x = RNG.uniform(-1, 1, size=(60, 5)).astype(np.float32)
    y = float64_reference.evaluate(read(pruned)[0], x[:, kept].astype(np.float64)).y
    result = decided(path, x, y)
    assert result.manifest.source.options_decided["input_id"] == "3,4"
    assert result.manifest.input.shape == (-1, 5)
    reported = export(Request(path=path, repository=tmp_path / "told", options=supplied))
    assert (reported.directory / "model.onnx").read_bytes() == (result.directory / "model.onnx").read_bytes()


def test_too_many_selections_are_not_tried(pykan: Any, tmp_path: Path) -> None:
    path = pykan([4, 1]).write(tmp_path)
    x = RNG.uniform(-1, 1, size=(20, 40)).astype(np.float32)
    with pytest.raises(OpenQuestion, match="reads 4 of 40 inputs") as caught:
        decided(path, x, x[:, :1])
    assert caught.value.among == ()
    assert "--option input_id=" in caught.value.hint


@full("combination")
def test_a_reading_that_fails_at_first_is_tried_with_another_forward(tmp_path: Path) -> None:
    """Coefficients [O, I, K] of layers without an order in their names: as [I, O, K], no layer follows another."""
    tensors = {
        "first.cheby_coeffs": floats(4, 3, 3),
        "last.cheby_coeffs": floats(5, 4, 3),
        "end.cheby_coeffs": floats(2, 5, 3),
    }
    path, names = save(tmp_path, tensors), ("first", "last", "end")
    x = RNG.normal(size=(50, 3)).astype(np.float32)
    y = x.astype(np.float64)
    for name in names:
        y = chebyshev(tensors[f"{name}.cheby_coeffs"].transpose(1, 0, 2), np.tanh(y))
    assert decided(path, x, y).manifest.source.options_decided["forward"] == "oid"


def test_where_no_reading_succeeds_the_first_error_is_told(tmp_path: Path) -> None:
    tensors = {"a.cheby_coeffs": floats(3, 3, 3), "a.extra": floats(7, 7)}
    with pytest.raises(ExportError, match="extra"):
        decided(save(tmp_path, tensors), floats(5, 3), floats(5, 3))
