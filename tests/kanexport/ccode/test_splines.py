"""The live functions of a cell, by polynomials and by the recursion, compared with the splines of the exporter."""

import numpy as np

from kanexport.bases.bspline import BSpline
from kanexport.ccode.nodes import FLOAT, Constant, Given, Splines
from tests.support import c_code
from tests.support.tiers import spread

OUTPUTS = 3


def knots(degree: int, intervals: int, rows: int, *, uniform: bool) -> np.ndarray:
    count = intervals + 2 * degree + 1
    if uniform:
        return np.tile(np.linspace(-1, 1, count), (rows, 1)).astype(np.float32)
    gaps = np.random.default_rng(intervals).uniform(0.05, 1.0, size=(rows, count - 1))
    return np.cumsum(np.concatenate([np.full((rows, 1), -2.0), gaps], axis=1), axis=1).astype(np.float32)


GRIDS = [(1, 1, True), (5, 1, False), (4, 2, False), (30, 2, False), (30, 1, True)]
PAIRS = [(3, *grid) for grid in GRIDS] + [(degree, *GRIDS[degree - 1]) for degree in (5, 1, 2)] + [(2, 30, 1, True)]


@spread("degree,intervals,rows,uniform", PAIRS, 3)
def test_splines_are_those_of_the_exporter(degree: int, intervals: int, rows: int, uniform: bool) -> None:
    c_code.needs("cc")
    own, sources = knots(degree, intervals, rows, uniform=uniform), 2
    functions, rng = own.shape[1] - degree - 1, np.random.default_rng(1)
    coef = rng.normal(size=(functions, sources, OUTPUTS)).astype(np.float32)
    start = Constant.of(rng.normal(size=(1, OUTPUTS)).astype(np.float32))
    value = Splines((1, OUTPUTS), FLOAT, Given((1, sources), FLOAT, "x"), start, own, coef, None, degree, 1.0, True)
    low, high = float(own.min()) - 0.2, float(own.max()) + 0.2
    ends = np.broadcast_to(own, (sources, own.shape[1])).T
    x = np.concatenate([rng.uniform(low, high, size=(200, sources)), ends]).astype(np.float32)
    with c_code.of_value(value, sources, OUTPUTS) as program:
        y, _ = program.run(x)
    basis = BSpline(np.broadcast_to(own, (sources, own.shape[1])).astype(np.float64), degree).evaluate(x)
    expected = np.einsum("bki,kio->bo", basis, coef) + start.array
    np.testing.assert_allclose(y, expected, atol=2e-6 * max(1.0, np.abs(expected).max()) * degree)
