"""Examples of `kanexport/bases/uniform_bspline.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform_bspline import DEGREES, NEAR, UniformSpline, departure


def examples() -> list[Basis]:
    """Degrees 1 to 6 on shared grids and on one for each source, for the conformance test."""
    bases: list[Basis] = []
    for degree in DEGREES:
        for intervals in (1, 5, 20):
            row = np.linspace(-1.3, 2.1, intervals + 2 * degree + 1)
            own = row * np.array([[1.0], [0.01], [70.0]]) + np.array([[0.0], [0.001], [-9.0]])
            for grid in (np.tile(row, (3, 1)), own):
                stored = BSpline(grid.astype(np.float32).astype(np.float64), degree)
                if departure(stored) <= NEAR:
                    bases.append(UniformSpline(stored))
    return bases
