"""Tests of `bases/bspline.py`."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline as ScipySpline

from kanexport.bases.bspline import BSpline
from tests.support.conformance import SOURCES


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


def test_only_uniform_cubic_grids_that_all_sources_share_take_the_closed_form() -> None:
    uniform = np.tile(np.linspace(-1, 1, 12), (SOURCES, 1))
    assert BSpline(uniform, 3).closed_form("float32")
    assert not BSpline(uniform * np.arange(1, SOURCES + 1)[:, None], 3).closed_form("float32")
