"""The search finds the ends of functions that are known, and points where an output rises or falls."""

import math

import numpy as np

from kanexport.certify import search
from kanexport.certify.propagation import Network
from kanexport.certify.search import Found
from kanexport.functions.elementwise import SYMBOLIC
from kanexport.ir.model import Kan, Layer, SymbolicEdge


def known() -> Kan:
    """y0 = sin(3 x0) + x1^2, y1 = x0, for any x2."""
    edges = (
        SymbolicEdge(0, 0, SYMBOLIC["sin"], 3.0, 0.0, 1.0, 0.0, 1.0),
        SymbolicEdge(1, 0, SYMBOLIC["x^2"], 1.0, 0.0, 1.0, 0.0, 1.0),
        SymbolicEdge(0, 1, SYMBOLIC["x"], 1.0, 0.0, 1.0, 0.0, 1.0),
    )
    return Kan(3, (Layer((), np.zeros((3, 2)), np.zeros(2), np.zeros((3, 2), dtype=bool), edges),))


def test_it_finds_the_ends_and_where_outputs_rise_and_fall() -> None:
    kan, box = known(), (np.full(3, -1.0), np.full(3, 1.0))
    best = Found(kan, box)
    search.climb(best, math.inf, np.random.default_rng(0))
    np.testing.assert_allclose(best.low, [-1, -1], atol=1e-3)
    np.testing.assert_allclose(best.high, [2, 1], atol=1e-3)
    np.testing.assert_allclose(best.at_high[0, 0], np.pi / 6, atol=0.02)
    best = Found(kan, box)
    seen = search.witnesses(Network.of(kan, *box), best, math.inf, np.random.default_rng(0))
    np.testing.assert_array_equal(seen.rises, [[True, True], [True, False], [False, False]])
    np.testing.assert_array_equal(seen.falls, [[True, False], [True, False], [False, False]])
    from_x, to_x = seen.up[1, 0, :, 1]
    assert abs(to_x) > abs(from_x)
