"""Interval arithmetic holds the results of the same operations on numbers."""

import numpy as np

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
    a = np.array([0.1]), np.array([0.1])
    low, high = intervals.add(a, intervals.negative(a))
    assert low == high == 0  # exact
