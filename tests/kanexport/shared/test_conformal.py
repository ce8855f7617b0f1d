"""Tests of `shared/conformal.py`."""

import math

import numpy as np
import pytest

from kanexport.shared import conformal


@pytest.mark.parametrize(
    ("rows", "coverage", "expected"),
    [(9, 0.9, 9), (10, 0.9, 10), (99, 0.9, 90), (100, 0.9, 91), (19, 0.55, 11), (8, 0.9, 9), (1, 0.5, 1)],
)
def test_the_rank_is_that_of_the_decimal_coverage(rows: int, coverage: float, expected: int) -> None:
    assert conformal.rank(rows, coverage) == expected
    assert conformal.rank(rows, np.float64(coverage)) == expected
    assert (rows >= conformal.rows_needed(coverage)) == (expected <= rows)
    scores = np.random.default_rng(0).permutation(rows).astype(float)  # 0, 1, ... in any order
    assert conformal.quantile(scores, coverage) == (expected - 1 if expected <= rows else math.inf)
