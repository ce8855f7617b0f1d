"""Histograms of values: counts, moments, representative points, and zones of a grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kanserve.analysis import drift
from kanserve.analysis.histogram import Cells, Window, split

FEWER = settings(max_examples=settings.default.max_examples // 5)
BOUNDS = ((-1.0, -0.25, 0.5, 2.0), (0.0, 3.0))
VALUES = st.floats(-50, 50, width=32) | st.sampled_from([-1.0, 2.0, 0.0, 3.0, np.nan, np.inf, -np.inf])
ROWS = hnp.arrays(np.float64, st.tuples(st.integers(0, 40), st.just(2)), elements=VALUES)


def counted(rows: np.ndarray) -> Window:
    window = Window(Cells.from_bounds(BOUNDS, 2))
    window.add(rows)
    return window


def same(entry: Window, other: Window) -> None:
    for name in ("counts", "nonfinite", "min", "max"):
        np.testing.assert_array_equal(getattr(entry, name), getattr(other, name))
    for name in ("sums", "squares"):
        np.testing.assert_allclose(getattr(entry, name), getattr(other, name), rtol=1e-9, atol=1e-6)


@FEWER
@given(ROWS)
def test_moments_and_extremes_are_those_of_the_finite_values(rows: np.ndarray) -> None:
    window = counted(rows)
    mean, std = window.moments()
    for node in range(2):
        finite = rows[np.isfinite(rows[:, node]), node]
        assert (window.values[node], window.nonfinite[node]) == (len(finite), len(rows) - len(finite))
        assert np.isnan(mean[node]) == (len(finite) == 0)
        assert np.isnan(std[node]) == (len(finite) < 2)
        if len(finite):
            assert mean[node] == pytest.approx(finite.mean(), abs=1e-9)
            assert (window.min[node], window.max[node]) == (finite.min(), finite.max())
        if len(finite) > 1:
            assert std[node] == pytest.approx(finite.std(ddof=1), abs=1e-6)


@FEWER
@given(ROWS, st.tuples(*(st.floats(-3, 3) for _ in range(3))))
def test_points_stand_for_the_values_of_a_parabola(rows: np.ndarray, factors: tuple[float, float, float]) -> None:
    x, weights = counted(rows).points()
    assert np.isfinite(x).all()
    assert (weights >= 0).all()
    for node in range(2):
        finite = rows[np.isfinite(rows[:, node]), node]
        expected = np.polyval(factors, finite).sum()
        got = (weights[node] * np.polyval(factors, x[node])).sum()
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-4)


@FEWER
@given(ROWS, st.integers(1, 4))
def test_cells_that_were_split_fold_into_what_would_have_been_counted(rows: np.ndarray, times: int) -> None:
    fine = Window(Cells.from_bounds([split(row, times) for row in BOUNDS], 2))
    fine.add(rows)
    same(fine.folded(Cells.from_bounds(BOUNDS, 2), times), counted(rows))


@FEWER
@given(
    st.lists(VALUES.filter(np.isfinite), min_size=1, max_size=40),
    st.integers(2, 9),
    st.lists(st.floats(-0.12, 0.12).filter(lambda at: abs(abs(at) - 0.1) > 1e-6), min_size=9, max_size=9),
)
def test_cells_that_are_alike_are_found_without_a_search(values: list[float], cells: int, moved: list[float]) -> None:
    bounds = np.linspace(-3, 4, cells + 1)
    step = bounds[1] - bounds[0]
    bounds[1:-1] += step * np.array(moved[: cells - 1])
    own = Cells.from_bounds((bounds.tolist(),), 1)
    assert (own.steps is not None) == all(abs(item) <= 0.1 for item in moved[: cells - 1])
    column = np.concatenate([np.array(values), bounds, np.nextafter(bounds, -9), np.nextafter(bounds, 9)])
    expected = np.searchsorted(bounds, column, side="right") - (column == bounds[-1])
    assert own.places(column[:, None])[:, 0].tolist() == expected.tolist()


KNOTS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


def test_values_are_inside_on_the_extension_and_outside() -> None:
    window = Window(Cells.from_bounds((KNOTS,), 2))
    window.add(np.array([[-3.5, -3.5], [-3.0, 0.0], [-1.0, 0.5], [0.99, 3.0], [1.0, np.nan], [3.1, 9.0]]))
    result = drift.zones(window, [(-1.0, 1.0), None])
    assert result.tolist() == [[2, 2, 2], [3, 0, 2]]
    assert (result.sum(axis=1) == window.values).all()
