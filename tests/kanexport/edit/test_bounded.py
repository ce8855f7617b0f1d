"""Least squares with bounds, compared with scipy on random problems."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from kanexport.edit import bounded


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=settings.default.max_examples // 5)
def test_the_solution_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, variables = int(rng.integers(3, 60)), int(rng.integers(1, 20))
    a, b = rng.normal(size=(rows, variables)), 3 * rng.normal(size=rows)
    low = np.where(rng.random(variables) < 0.3, -np.inf, rng.normal(size=variables) - 1)
    high = np.where(rng.random(variables) < 0.3, np.inf, np.maximum(low, -2) + rng.exponential(size=variables) + 1e-3)
    v = bounded.solve(a, b, low, high, rng.normal(size=variables))
    expected = optimize.lsq_linear(a, b, (low, high), tol=1e-12)
    assert (v >= low).all()
    assert (v <= high).all()
    assert np.sum((a @ v - b) ** 2) <= 2 * expected.cost * (1 + 1e-9) + 1e-12


def test_equal_bounds_and_columns_of_zeros_keep_their_values() -> None:
    a = np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])
    low, high = np.array([2.0, -np.inf, -np.inf]), np.array([2.0, np.inf, np.inf])
    v = bounded.solve(a, np.array([5.0, 1.0]), low, high, np.array([0.0, 0.0, 7.0]))
    assert v[[0, 2]].tolist() == [2.0, 7.0]
    assert v[1] == pytest.approx(2.0)
