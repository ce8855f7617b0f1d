"""Interval arithmetic holds the results of the same operations on numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kanexport.certify import intervals

RNG = np.random.default_rng(0)


def some(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    ends = np.sort(RNG.normal(size=(2, count)) * 10.0 ** RNG.uniform(-3, 3, count), axis=0)
    return ends[0], ends[1]


def inside(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.clip(RNG.uniform(*pair, (20, len(pair[0]))), *pair)


def test_operations_and_functions() -> None:
    a, b = some(), some()
    for (low, high), exact in (
        (intervals.add(a, b), inside(a) + inside(b)),
        (intervals.multiply(a, b), inside(a) * inside(b)),
        (intervals.sine(a), np.sin(inside(a))),
        (intervals.rising(np.arctan, a), np.arctan(inside(a))),
        (intervals.reciprocal(a), 1 / inside(a)),
        (intervals.negative(a), -inside(a)),
    ):
        assert (exact >= low).all()
        assert (exact <= high).all()


def test_results_without_a_bound() -> None:
    a = np.array([-1.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0])
    low, high = intervals.reciprocal(a)
    assert np.isinf(low[:2]).all()
    assert np.isinf(high[:2]).all()
    assert high[2] == pytest.approx(1)
    zero = np.zeros(3), np.zeros(3)
    with np.errstate(all="ignore"):
        assert (intervals.multiply(zero, (low, high))[1] == 0).all()
        assert np.isinf(intervals.rising(np.log, a)[0][:2]).all()


def test_sums_that_are_zero_are_exact() -> None:
    a = np.array([0.1]), np.array([0.1])
    low, high = intervals.add(a, intervals.negative(a))
    assert low == high == 0
