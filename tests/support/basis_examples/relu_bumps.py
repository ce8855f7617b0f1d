"""Examples of `kanexport/bases/relu_bumps.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.relu_bumps import ReluBumps


def examples() -> list[Basis]:
    """Initial ends of the library, moved ends and crossed ones, for the conformance test."""
    rng = np.random.default_rng(0)
    instances: list[Basis] = []
    for grid, k in ((5, 3), (1, 0), (8, 4)):
        low = np.tile(np.arange(-k, grid) / grid, (3, 1))
        high = low + (k + 1) / grid
        rate = 4 * grid**2 / (k + 1) ** 2
        moved = rng.normal(0, 0.3 / grid, size=(2, *low.shape))
        instances += [ReluBumps(low, high, rate), ReluBumps(low + moved[0], high + moved[1], rate)]
    crossed = np.array([[0.5, 0.0], [0.2, 0.3], [0.1, 0.1]])
    return [
        *instances,
        ReluBumps(crossed, np.array([[0.1, 0.4], [0.6, 0.2], [0.1, 0.0]]), 2.0),
        *(ReluBumps(low, high, rate, power) for power in (1, 3, 4)),
    ]
