"""Tests of `shared/grids.py`."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.shared import grids
from kanexport.shared.manifest import NodeStep
from tests.kanexport.shared.test_formula import layer


@given(st.lists(st.floats(width=32), max_size=40), st.sets(st.integers(-5, 5), min_size=2, max_size=8))
def test_every_finite_value_is_in_one_cell(values: list[float], actual: set[int]) -> None:
    bound = sorted(map(float, actual))
    array = np.array(values, np.float64)
    counts, nonfinite = grids.count(bound, array)
    finite = array[np.isfinite(array)]
    assert (sum(counts), nonfinite, len(counts)) == (len(finite), len(array) - len(finite), len(bound) + 1)
    assert counts[0] == (finite < bound[0]).sum()
    assert counts[-1] == (finite > bound[-1]).sum()


def uniform(low: float, high: float, cells: int = 5, degree: int = 3) -> tuple[float, ...]:
    step = (high - low) / cells
    return tuple(low + step * at for at in range(-degree, cells + degree + 1))


@pytest.mark.parametrize(
    ("kind", "functions", "knots", "expected"),
    [
        ("bspline", 8, uniform(-1, 1), (-2.2, -1, 1, 2.2, 0.4)),
        ("gaussian", 5, (-2, -1, 0, 1, 2), (-5, -2, 2, 5, 1)),
        ("relu-bumps", 4, (0, 1, 2, 3, 4, 5, 6, 8), (0, 2, 6, 8, 2)),
        ("piecewise-linear", 3, (-1, 0, 1), (-1, -1, 1, 1, 1)),
    ],
)
def test_knots_mean_what_the_basis_says(
    kind: str, functions: int, knots: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    result = grids.of_knots(kind, functions, knots)
    assert result is not None
    assert dataclasses.astuple(result) == pytest.approx(expected)


@pytest.mark.parametrize("knots", [(), (1.0,), (2.0, 2.0, 2.0), (math.inf, 1.0)])
def test_knots_on_one_spot_are_no_grid(knots: tuple[float, ...]) -> None:
    assert grids.of_knots("bspline", 1, knots) is None


@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=30), st.integers(-5, 50))
def test_a_grid_lies_in_what_its_functions_reach_whatever_a_manifest_says(knots: list[float], functions: int) -> None:
    for kind in ("bspline", "relu-bumps", "gaussian", "piecewise-linear"):
        result = grids.of_knots(kind, functions, knots)
        if result is not None:
            assert result.first <= result.low <= result.high <= result.last
            assert result.cell > 0


def test_values_keep_the_digits_that_distinguish_them() -> None:
    """A mean of 1e9 with a scale of 1: knots that are 0.1 apart stay apart."""
    knots = tuple(1e9 + 0.1 * at for at in range(9))
    assert len(set(grids.distinct(knots))) == 9
    bounds = grids.equal(1e9, 1e9 + 0.5)
    assert len(set(bounds)) == len(bounds)
    assert grids.rounded([1.23456789012, -0.5]) == (1.23456789, -0.5)
    assert grids.rounded([1234567.89123456, 1.0], [0.001, 0.0]) == (1234567.89123456, 1.0)


STEPS = {
    "scaler": NodeStep(kind="standardize", bias=(5.0, 2020.0), scale=(2.0, 10.0)),
    "select": NodeStep(kind="select", indices=(1,)),
    "clip": NodeStep(kind="clip", scale=(-1.0,), bias=(1.0,)),
    "norm": NodeStep(kind="layernorm", scale=(1.0,), bias=(0.0,)),
}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), [(0, 0.0, 1.0)]),
        (("select",), [(1, 0.0, 1.0)]),
        (("scaler", "select"), [(1, 2020.0, 10.0)]),
        (("scaler", "select", "clip"), [(1, 2020.0, 10.0)]),
        (("scaler", "scaler", "select"), [(1, 2020.0 + 10 * 2020.0, 100.0)]),
        (("scaler", "select", "norm"), None),
        (("select", "scaler"), None),  # a scaler of two columns after one
    ],
)
def test_the_units_of_a_source_are_those_of_the_steps_before_it(names: tuple[str, ...], expected: Any) -> None:
    own = grids.sources(layer(1, 1, pre_steps=tuple(STEPS[name] for name in names)))
    assert (None if own is None else [dataclasses.astuple(source) for source in own]) == expected
    if own is not None:
        offset, scale = own[0].offset, own[0].scale
        assert own[0].in_node_units((-1.0, 2.0)) == (offset - scale, offset + 2 * scale)
