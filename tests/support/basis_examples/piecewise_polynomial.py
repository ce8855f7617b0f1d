"""Examples of `kanexport/bases/piecewise_polynomial.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.piecewise_polynomial import LocalPowers


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    rng = np.random.default_rng(0)
    uneven = np.cumsum(rng.uniform(0.05, 0.6, size=(3, 6)), axis=1) - 1
    return [
        LocalPowers(np.tile(np.linspace(-1, 1, 7)[1:-1], (3, 1)), 3),
        LocalPowers(uneven, 3),
        LocalPowers(uneven[:, :2], 1),
        LocalPowers(np.array([[0.0], [0.5], [-2.0]]), 2),
        LocalPowers(uneven * 30 + 100, 5),
    ]
