"""Recorded outputs accept an interpretation only if rounding explains its error; otherwise the exit code is 3."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import OutputsDiffer
from kanexport.parity import compare, data
from kanexport.shared.manifest import CHOSEN_TOLERANCE, EXPECTED_OUTPUTS
from kanexport.verify.float64_reference import Trace
from tests.support.small_checkpoints import decided, save
from tests.support.tiers import full
from tools.oracle import near_readings

Array = np.ndarray


def chebyshev(u: Array, coef: Array) -> Array:
    """[B, I] -> [B, O] in float32, by the recurrence, as copies of ChebyKAN compute it."""
    functions = [np.ones_like(u), u]
    for _ in range(coef.shape[2] - 2):
        functions.append(2 * u * functions[-1] - functions[-2])
    return np.einsum("bik,iok->bo", np.stack(functions, axis=-1), coef)


@pytest.fixture
def clamped() -> tuple[dict[str, Array], Array, Callable[[float], Array]]:
    """A file, rows that the clamp mostly limits, and the outputs with a clamp that ends this far before 1."""
    rng = np.random.default_rng(3)
    coef = rng.normal(size=(4, 2, 9)).astype(np.float32)
    x = rng.normal(0, 2, size=(120, 4)).astype(np.float32)

    def outputs(short: float) -> Array:
        end = np.float32(1) - np.float32(short)
        return chebyshev(np.clip(x, -end, end), coef)

    return {"cheby_coeffs": coef}, x, outputs


def _exact(y: Array) -> Any:
    return lambda x, jitter: Trace(y[x[:, 0].astype(int)], (), np.ones(len(x)))


def _recorded(folder: Path, y: Array) -> data.RecordedOutputs:
    np.savez(folder / "a.npz", x=np.arange(float(len(y)))[:, None], y=y)
    return data.load([folder / "a.npz"])


def test_rows_that_fit_and_rows_that_are_left_out(tmp_path: Path) -> None:
    """Far from its grid, pykan returns the -9e-10 of a SiLU, and the graph returns 0. The error of a row is relative to
    its own largest output, not to the usual output of the rows. A large tolerance of the user leaves out no row."""
    for y, errors, tolerance, expected in (
        ([1.0, -2.0, 0.5, -9e-10], [0, 0, 0, 9e-10], 5e-5, (True, 1)),
        ([1.0, -2.0, 0.5, 1e-3], [0, 0, 0, 5e-6], 5e-5, (False, 0)),
        ([1.0, 2.0, 4.0], [0.02, 0.04, 0.08], 5e-2, (True, 0)),
        ([1.0, 2.0, 4.0], [0.06, 0.12, 0.24], 5e-2, (False, 0)),
        ([1e-3, 1.0, 2.0], [5e-6, 0, 0], 5e-5, (False, 0)),
    ):
        rows = np.array([y]).T
        recorded = _recorded(tmp_path, rows)
        result = compare.match(recorded, rows + np.array([errors]).T, _exact(rows), "float32", tolerance)
        assert (result.fits, result.left_out) == expected
    assert (result.max_rel, result.worst) == (pytest.approx(5e-3), (0,))
    rows = np.array([[1.0], [1.0], [1e-3]])
    recorded = _recorded(tmp_path, rows)
    result = compare.match(recorded, rows + np.array([[1e-4], [0], [1e-6]]), _exact(rows), "float32", 5e-5)
    assert (result.max_rel, result.error) == (pytest.approx(1e-3), pytest.approx(1e-4)), "the error of the worst row"
    with pytest.raises(OutputsDiffer, match=r"1\.00e-04 relative, row 0,"):
        compare.require(result, recorded, "the graph")
    recorded = _recorded(tmp_path, np.array([[1.0], [2.0], [4.0]]))
    assert compare.relaxation(recorded, 0.01) == compare.LOOSE, "an interpretation has no more than this"


def test_a_clamp_at_one_is_taken(clamped: Any, tmp_path: Path) -> None:
    tensors, x, outputs = clamped
    document = decided(save(tmp_path, tensors), x, outputs(0.0)).manifest
    assert document.verification_basis == EXPECTED_OUTPUTS
    assert document.source.options_decided["forward"] == "clip"


def test_a_tolerance_that_is_relaxed_is_told_with_both_numbers(clamped: Any, tmp_path: Path) -> None:
    tensors, x, outputs = clamped
    y = outputs(0.0) * (1 + np.float32(1e-4))
    with pytest.raises(OutputsDiffer, match=r"the nearest is chebykan \(.*\): off by") as error:
        decided(save(tmp_path, tensors), x, y, "forward=clip")
    assert error.value.exit_code == 3
    assert "rounding explains" in error.value.message
    assert not (tmp_path / "models").exists()
    assert "--tolerance" not in error.value.hint
    document = decided(save(tmp_path, tensors), x, y, "forward=clip", tolerance=3e-5).manifest
    assert document.verification_basis == CHOSEN_TOLERANCE
    assert document.claim.startswith("compared with the trained model, within a tolerance you chose (")
    reported = (
        r"off by up to \d\.\de-0[45] of the largest output of a row; without the relaxed tolerance, "
        r"\d\.\de-0[567] is accepted"
    )
    assert any(re.search(reported, note) for note in document.notes)
    document = decided(save(tmp_path, tensors), x, outputs(0.0), "forward=clip", tolerance=3e-5).manifest
    assert document.verification_basis == EXPECTED_OUTPUTS, "the usual tolerance accepts it"


@full("rare")
def test_near_readings_are_refused_and_files_alone_name_what_they_may_be(tmp_path: Path) -> None:
    trial = near_readings.run(tmp_path, seed=7, count=120, search=0, number=60)
    assert not trial.failures
    assert trial.counts["near: refused"] > 80
    assert trial.counts["own readings: accepted"] > 60
    assert trial.counts["alone: refused as ambiguous"] > 20
    assert trial.counts["alone: exported, wrong, alternatives named"] > 5
