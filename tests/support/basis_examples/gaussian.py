"""Examples of `kanexport/bases/gaussian.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.gaussian import Gaussian


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    return [
        Gaussian(np.linspace(-2, 2, 8), 4 / 7),
        Gaussian(np.linspace(-1, 3, 5), 0.8),
        Gaussian(np.array([0.5]), 1.0),
        Gaussian(np.array([[-1.0, 0.0, 1.5], [0.0, 1.0, 2.0], [-3.0, 2.0, 4.0]]), np.array([0.5, 1.0, -2.0])),
        Gaussian(np.array([-1.0, 0.0, 1.5]), np.array([0.5, 1.0, 2.0])),
        Gaussian(np.array([[-1.0, 0.0], [0.0, 1.0], [-3.0, 2.0]]), np.array([[0.5, 1.0], [2.0, 1.0], [0.7, 0.9]])),
    ]
