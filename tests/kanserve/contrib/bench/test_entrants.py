"""Parts of `kanserve bench`: sizes, rows, interleaving, errors and the plot."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.shared.manifest import BasisInfo
from kanserve.contrib.bench import entrants
from tests.support import toy_model

WIDTHS = st.integers(1, 40)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(1e-6, 1e3))
def test_errors(values: list[float], scale: float) -> None:
    """The error is relative to the largest output, in any unit."""
    right = np.array(values)
    largest = float(np.abs(right).max())
    assert entrants.error(right, right, right) == 0
    off = right.copy()
    off[0] += scale
    expected = abs(float(off[0] - right[0])) / largest if largest else math.inf
    if off[0] != right[0]:
        assert entrants.error(off, right, right) == pytest.approx(expected)


@pytest.mark.parametrize("spoiled", [np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.array([[1.0, 2.0]])])
def test_an_error_that_cannot_be_told_is_infinite(spoiled: np.ndarray) -> None:
    right = np.array([1.0, 2.0])
    assert entrants.error(spoiled, right, right) == math.inf


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 30))
def test_rows_again_and_again(count: int, wanted: int, start: int) -> None:
    result = entrants.repeated({"x": np.arange(count)}, wanted, start)["x"]
    assert result.tolist() == list(itertools.islice(itertools.cycle(range(count)), start, start + wanted))


@pytest.mark.parametrize("grid", [False, True])
def test_drawn_rows_lie_where_the_manifest_says(grid: bool) -> None:
    """Inside the grids, where there are some; else where the reference rows lie, which go from -2 to 2."""
    manifest = toy_model.manifest("toy")
    first, *others = manifest.layers
    if grid:
        knots = tuple(np.arange(-5.0, 7.0).tolist())  # from -2 to 3, and three more on either side
        basis = BasisInfo(kind="bspline", functions=8, parameters={"degree": "3"}, knots=(knots,))
        manifest = dataclasses.replace(manifest, layers=(dataclasses.replace(first, bases=(basis,)), *others))
    x = entrants.drawn(manifest, 500)["x"]
    known = np.array(manifest.reference.inputs)
    low, high = (np.full(3, -2.0), np.full(3, 3.0)) if grid else (known.min(axis=0), known.max(axis=0))
    assert (x.shape, x.dtype) == ((500, 3), np.float32)
    assert (x >= low - 1e-6).all()
    assert (x <= high + 1e-6).all()
    assert (np.ptp(x, axis=0) > 0.9 * (high - low)).all()
    assert (entrants.drawn(manifest, 500)["x"] == x).all()


@given(WIDTHS, WIDTHS, st.integers(1, 4), st.integers(1, 5000))
def test_no_other_width_is_nearer(sources: int, destinations: int, layers: int, wanted: int) -> None:
    result = entrants.mlp_widths(sources, destinations, layers, wanted)
    assert len(result) == max(1, layers - 1) + 2
    assert (result[0], result[-1]) == (sources, destinations)
    assert len(set(result[1:-1])) == 1
    size = sum((before + 1) * after for before, after in itertools.pairwise(result))
    assert entrants.mlp_parameters(result) == size
    widths_of_all = np.arange(1, 5002)
    parameters = entrants.mlp_parameters((sources, *[widths_of_all] * (len(result) - 2), destinations))
    off = np.abs(parameters - wanted)
    assert off[result[1] - 1] == off.min()
