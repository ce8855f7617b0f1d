"""Rational basis: the form with a limit, and the form of homogeneous powers."""

import numpy as np
import pytest

from kanexport.bases.rational import KINDS, Rational
from tests.support.conformance import Emitted

RNG = np.random.default_rng(0)
ABOVE, BELOW = RNG.uniform(0.5, 1, size=(3, 6)), RNG.uniform(0.5, 1, size=(3, 4))
FAR = np.array([0.0, 0.3, -1, 5, 1e3, -1e5, 1e6, 8e6, -8.5e6, 1e7, -1e8, 1e10, 1e20, -1e30])


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_the_limit_the_function_is_a_line(kind: str) -> None:
    basis = Rational(ABOVE, np.abs(BELOW), kind)
    rows = np.repeat(FAR[:, None], 3, axis=1).astype(np.float32)
    if kind == "signed":
        rows = rows[np.abs(rows[:, 0]) != 1]  # next to a pole
    values = Emitted(lambda g, x: basis.emit(g, x, 3), 3, (3,), "float32", exact=True)
    expected = basis.evaluate(rows.astype(np.float64))[:, 0]
    np.testing.assert_allclose(values(rows), expected, rtol=3e-6)
    spoilt = np.repeat(np.array([[np.nan], [np.inf], [-np.inf]]), 3, axis=1).astype(np.float32)
    assert np.isnan(values(spoilt)).all()
