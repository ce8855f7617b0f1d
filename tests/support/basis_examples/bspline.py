"""Examples of `kanexport/bases/bspline.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.bspline import FINE, BSpline, Repeated


def examples() -> list[Basis]:
    """Degrees 1 to 5 on uniform, uneven and repeated knots, for the conformance test."""
    rng = np.random.default_rng(0)
    instances: list[Basis] = []
    for degree in (1, 2, 3, 4, 5):
        for intervals in (1, 5, 20):
            count = intervals + 2 * degree + 1
            uniform = np.tile(np.linspace(-1, 1, count), (3, 1))
            gaps = rng.uniform(0.02, 1.0, size=(3, count - 1))
            knots = np.cumsum(np.concatenate([np.full((3, 1), -2.0), gaps], axis=1), axis=1)
            for extended in (uniform, knots):
                # Stored knots are float32 in nearly every checkpoint.
                instances.append(BSpline(extended.astype(np.float32).astype(np.float64), degree))
        row = np.concatenate([np.arange(-degree, 1), [0, 0.5, 0.5, 0.5, 1], 1.0 + np.arange(1, degree + 1)])
        back = np.concatenate([np.arange(-degree, 1), [0.5, 0.25, 1], 1.0 + np.arange(1, degree + 1)])
        instances += [BSpline(np.tile(row, (3, 1)), degree, how) for how in (Repeated.TERM, Repeated.FUNCTION)]
        instances.append(BSpline(np.stack([back, np.sort(back), back + 100]), degree, Repeated.FUNCTION))
    fine = np.cumsum(rng.uniform(0.2, 1.0, size=(3, FINE + 8)), axis=1).astype(np.float32).astype(np.float64)
    instances += [BSpline(fine, degree) for degree in (1, 3)]
    return instances + [BSpline(np.full((3, 9), 0.25), 3, how) for how in (Repeated.TERM, Repeated.FUNCTION)]
