"""Tests of `bases/bspline.py`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline as ScipySpline

from kanexport.bases import bspline
from kanexport.bases.bspline import BSpline
from tests.support.conformance import SOURCES, emitted_basis, rows_around


@st.composite
def splines(draw: st.DrawFn) -> BSpline:
    degree = draw(st.integers(1, 5))
    cells = draw(st.integers(1, 12))
    count = cells + 2 * degree
    gaps = draw(st.lists(st.floats(1e-3, 4.0), min_size=count, max_size=count))
    start = draw(st.floats(-50, 50))
    row = np.cumsum([start, *gaps]).astype(np.float32).astype(np.float64)
    return BSpline(np.tile(row, (SOURCES, 1)), degree)


@given(splines(), st.data())
@settings(max_examples=settings.default.max_examples // 10)
def test_splines_match_scipy(spline: BSpline, data: st.DataObject) -> None:
    knots = spline.extended[0]
    x = np.array(data.draw(st.lists(st.floats(knots[0], knots[-1]), min_size=1, max_size=20)))
    x = x[x < knots[-1]]  # the last knot belongs to the last cell in scipy alone
    values = spline.evaluate(np.tile(x[:, None], (1, SOURCES)))
    for c in range(spline.functions):
        element = ScipySpline.basis_element(knots[c : c + spline.degree + 2], extrapolate=False)
        expected = np.nan_to_num(element(x), nan=0.0)
        np.testing.assert_allclose(values[:, c, 0], expected, atol=1e-9)


@given(splines())
@settings(max_examples=settings.default.max_examples // 10)
def test_random_splines_survive_emission(spline: BSpline) -> None:
    x = rows_around(spline, SOURCES)
    error = np.abs(emitted_basis(spline, "float32")(x) - spline.evaluate(x)).max()
    # Knots near 50 with cells of 1e-3 leave float32 four digits of a cell.
    cell = float(np.diff(spline.extended, axis=1).min())
    reach = float(np.abs(spline.extended).max())
    assert error <= 5e-6 + 4 * np.finfo(np.float32).eps * reach / cell


def test_a_fine_grid_gives_the_very_numbers_of_the_whole_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast form computes only the functions of one grid interval; on, near and between knots, outside, and for
    NaN."""
    rng = np.random.default_rng(2)
    for degree, cells in ((1, 40), (2, 4), (3, 1), (3, 40), (5, 4)):
        knots = np.cumsum(rng.uniform(0.01, 1, size=(4, cells + 2 * degree + 1)), axis=1)
        for spline in (BSpline(knots, degree), BSpline(knots[[1, 1]], degree)):
            t = spline.extended.T
            inside = rng.uniform(-1, 1 + t.max(), size=(50, t.shape[1]))
            ends = [np.full((1, t.shape[1]), value) for value in (np.nan, np.inf, -np.inf)]
            x = np.concatenate([t, np.nextafter(t, -99), np.nextafter(t, 99), inside, *ends])
            monkeypatch.setattr(bspline, "FINE", 0)
            result = spline.evaluate(x)
            monkeypatch.setattr(bspline, "FINE", 10**9)
            np.testing.assert_array_equal(result, spline.evaluate(x))


def test_uniform_cubic_grids_take_the_closed_form_and_others_do_not() -> None:
    uniform = np.tile(np.linspace(-1, 1, 12), (SOURCES, 1))
    assert BSpline(uniform, 3).closed_form("float32")
    assert not BSpline(uniform, 3).closed_form("float64")
    assert not BSpline(uniform, 2).closed_form("float32")
    moved = uniform.copy()
    moved[:, 5] += 1e-4
    assert not BSpline(moved, 3).closed_form("float32")
    scaled = uniform * np.arange(1, SOURCES + 1)[:, None]
    assert not BSpline(scaled, 3).closed_form("float32")
