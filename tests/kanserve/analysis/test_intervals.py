"""Tests of `analysis/intervals.py`."""

import numpy as np
import pytest

from kanexport.shared import sections
from kanserve.analysis import intervals

CONSTANT = sections.OutputInterval(quantile=0.5, points=(), spreads=(), width=1.0)


def section(method: str, **fields: object) -> sections.Intervals:
    return sections.Intervals(method=method, coverage=0.9, name="rows.npz", sha256="0" * 64, rows=100, **fields)


def test_absolute_intervals_have_constant_width_and_the_shape_of_the_outputs() -> None:
    wide = sections.OutputInterval(quantile=2.0, points=(), spreads=(), width=4.0)
    made = intervals.of(
        section(sections.ABSOLUTE, outputs=(CONSTANT, wide)), np.array([[1, 2], [np.nan, np.inf]], np.float32)
    )
    np.testing.assert_array_equal(made[0], [[0.5, 1.5], [0.0, 4.0]])
    assert np.isnan(made[1, 0]).all()
    assert np.isposinf(made[1, 1]).all()
    assert made.dtype == np.float64
    pixels = intervals.of(section(sections.ABSOLUTE, outputs=(CONSTANT,) * 6), np.zeros((4, 2, 3), np.float32))
    assert pixels.shape == (4, 2, 3, 2)
    assert intervals.of(section(sections.ABSOLUTE, outputs=(CONSTANT,)), np.zeros((0, 1))).shape == (0, 1, 2)


def test_normalized_intervals_follow_the_table_of_spreads() -> None:
    own = sections.OutputInterval(quantile=2.0, points=(0.0, 1.0), spreads=(0.1, 0.3), width=0.8)
    made = intervals.of(section(sections.NORMALIZED, outputs=(own,)), np.array([[-5.0], [0.5], [9.0], [np.nan]]))
    np.testing.assert_allclose((made[:3, 0, 1] - made[:3, 0, 0]) / 2, [0.2, 0.4, 0.6])
    assert np.isnan(made[3]).all()


def test_a_set_has_the_probable_classes_and_always_the_most_probable() -> None:
    sets = section(sections.LAC, scores=sections.PROBABILITIES, threshold=0.65, size=1.0)
    p = np.array([[0.6, 0.4, 0.0], [0.34, 0.33, 0.33], [np.nan, 0.5, 0.5]])
    np.testing.assert_array_equal(intervals.of(sets, p), [[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    logits = section(sections.LAC, scores=sections.LOGITS, threshold=0.65, size=1.0)
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(intervals.of(logits, np.log(p[:2]) + 800), [[1, 1, 0], [1, 0, 0]])
    assert intervals.of(logits, p).dtype == np.uint8


def test_outputs_that_do_not_fit_are_rejected() -> None:
    with pytest.raises(ValueError, match="the outputs have 2 numbers per row, the intervals 1"):
        intervals.of(section(sections.ABSOLUTE, outputs=(CONSTANT,)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="3 axes"):
        intervals.of(section(sections.LAC, scores=sections.LOGITS), np.zeros((3, 2, 2)))
    with pytest.raises(ValueError, match="no prediction intervals"):
        intervals.of(sections.NO_INTERVALS, np.zeros((3, 2)))
