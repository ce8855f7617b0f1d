"""Every basis: what is emitted computes what is evaluated."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline as ScipySpline

from kanexport import bases
from kanexport.bases import Basis
from kanexport.bases.bspline import BSpline
from kanexport.errors import InvalidKan
from kanexport.operators.graph import Graph

EXAMPLES = [(name, basis) for name in bases.names() for basis in bases.examples(name)]
SOURCES = 3


def emitted(basis: Basis, x: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """Run the operators a basis emits: [B, I] -> [B, K, I]."""
    g = Graph("basis", dtype)
    value = basis.emit(g, g.input("x", SOURCES), SOURCES)
    value = g.reshape(value, 0, basis.functions, SOURCES)
    model = g.build({"b": (value, (basis.functions, SOURCES))})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["b"], {"x": x.astype(dtype)})[0] * basis.emitted_scale(g)


def rows_around(basis: Basis) -> np.ndarray:
    """Inside, beside, far and on every knot with its float32 neighbours."""
    support = basis.support(SOURCES)
    low, high = support.outer
    spread = np.linspace(0, 1, 101)[:, None]
    points = support.points.astype(np.float32)
    near = [np.nextafter(points, np.float32(side)) for side in (-np.inf, np.inf)]
    rows = [low + spread * (high - low), low - 10 * (high - low) * spread, high + 10 * (high - low) * spread, points]
    return np.concatenate([*rows, *near]).astype(np.float32)


@pytest.mark.parametrize(("name", "basis"), EXAMPLES, ids=lambda v: getattr(v, "kind", v))
def test_emitted_equals_evaluated(name: str, basis: Basis) -> None:
    x = rows_around(basis)
    expected = basis.evaluate(x.astype(np.float64))
    assert expected.shape == (len(x), basis.functions, SOURCES)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(emitted(basis, x), expected, rtol=0, atol=5e-6 * scale)


@pytest.mark.parametrize(("name", "basis"), EXAMPLES, ids=lambda v: getattr(v, "kind", v))
def test_compact_bases_are_exactly_zero_outside(name: str, basis: Basis) -> None:
    low, high = basis.support(SOURCES).outer
    outside = np.stack([low - 1e-3, high + 1e-3, low - 1e6, high + 1e30, np.full(SOURCES, np.inf)])
    values = emitted(basis, outside.astype(np.float32))
    if basis.compact:
        assert not values.any()
        assert not basis.evaluate(np.stack([low - 1, high, np.full(SOURCES, np.nan)])).any()


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
@settings(max_examples=60, deadline=None)
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
@settings(max_examples=40, deadline=None)
def test_random_splines_survive_emission(spline: BSpline) -> None:
    x = rows_around(spline)
    error = np.abs(emitted(spline, x) - spline.evaluate(x.astype(np.float64))).max()
    # Knots near 50 with cells of 1e-3 leave float32 four digits of a cell.
    cell = float(np.diff(spline.extended, axis=1).min())
    reach = float(np.abs(spline.extended).max())
    assert error <= 5e-6 + 4 * np.finfo(np.float32).eps * reach / cell


@given(splines())
@settings(max_examples=30, deadline=None)
def test_inside_the_grid_splines_sum_to_one(spline: BSpline) -> None:
    low, high = spline.support(SOURCES).core
    x = low + np.linspace(0, 1, 17)[:, None] * (high - low)
    np.testing.assert_allclose(spline.evaluate(x).sum(axis=1), 1.0, atol=1e-9)


@pytest.mark.parametrize("bad", [[0, 1, 1, 2, 3, 4, 5, 6], [0, 2, 1, 3, 4, 5, 6, 7], [0, 1, np.nan, 3, 4, 5, 6, 7]])
def test_knots_must_increase(bad: list[float]) -> None:
    with pytest.raises(InvalidKan, match="not strictly increasing"):
        BSpline(np.array([bad]), 3)


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


@pytest.mark.parametrize(("name", "basis"), EXAMPLES, ids=lambda v: getattr(v, "kind", v))
def test_float64_emission_keeps_float64_precision(name: str, basis: Basis) -> None:
    x = rows_around(basis).astype(np.float64)
    expected = basis.evaluate(x)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(emitted(basis, x, "float64"), expected, rtol=0, atol=1e-13 * scale)
