"""Histograms of values: counts, moments, representative points, and zones of a grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kanexport.contract.manifest import BasisInfo, LayerInfo, NodeStep
from kanserve.analysis import drift
from kanserve.analysis.histogram import Cells, Window, split
from tests.support import toy_model

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
@given(ROWS, ROWS)
def test_windows_add_up_as_their_rows_do(first: np.ndarray, second: np.ndarray) -> None:
    before = counted(first).counts.copy()
    item = counted(first)
    same(item.plus(counted(second)), counted(np.concatenate([first, second])))
    np.testing.assert_array_equal(item.counts, before)


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
def test_points_stand_for_the_values_where_a_function_is_a_parabola(
    rows: np.ndarray, factors: tuple[float, float, float]
) -> None:
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


def test_what_stands_still_has_points_that_do() -> None:
    x, weights = counted(np.full((9, 2), 0.3)).points()
    np.testing.assert_allclose(x[weights > 0], 0.3, atol=1e-12)


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


def spline(*knots: float, degree: int = 2) -> BasisInfo:
    return BasisInfo(
        kind="bspline", functions=len(knots) - degree - 1, parameters={"degree": str(degree)}, knots=(knots,)
    )


def layer(*bases: BasisInfo, pre_steps: tuple[NodeStep, ...] = ()) -> LayerInfo:
    return dataclasses.replace(toy_model.manifest("toy").layers[0], bases=bases, pre_steps=pre_steps)


KNOTS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


def test_the_grid_ends_where_the_spline_was_trained() -> None:
    whole, select = spline(*KNOTS), (NodeStep(kind="select", indices=(2,)),)
    affine = (NodeStep(kind="affine", scale=(2.0,), bias=(0.0,)),)
    for actual, node, expected in (
        (layer(whole), 1, (-1.0, 1.0)),
        (layer(dataclasses.replace(whole, kind="gaussian", parameters={})), 0, (-3.0, 3.0)),
        (layer(whole, pre_steps=select), 2, (-1.0, 1.0)),
        (layer(whole, pre_steps=select), 0, None),  # no source
        (layer(whole, pre_steps=affine), 0, None),
        (layer(), 0, None),
    ):
        assert drift.core(actual, node) == expected


def test_values_are_inside_on_the_extension_and_outside() -> None:
    window = Window(Cells.from_bounds((KNOTS,), 2))
    window.add(np.array([[-3.5, -3.5], [-3.0, 0.0], [-1.0, 0.5], [0.99, 3.0], [1.0, np.nan], [3.1, 9.0]]))
    result = drift.zones(window, [(-1.0, 1.0), None])
    assert result.tolist() == [[2, 2, 2], [3, 0, 2]]
    assert (result.sum(axis=1) == window.values).all()


@FEWER
@given(ROWS, st.sampled_from([None, (-1.0, 2.0), (-0.25, 0.5)]))
def test_every_value_is_in_one_zone(rows: np.ndarray, core: tuple[float, float] | None) -> None:
    window = counted(rows)
    result = drift.zones(window, [core, None])
    assert result.sum(axis=1).tolist() == window.values.tolist()
    low, high = core or (-1.0, 2.0)
    own = rows[:, 0][np.isfinite(rows[:, 0])]
    last = own == 2.0 if high == 2.0 else np.zeros(len(own), bool)
    assert result[0, 0] == ((own >= low) & (own < high) | last).sum()
