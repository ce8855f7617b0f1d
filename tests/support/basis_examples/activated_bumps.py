"""Examples of `kanexport/bases/activated_bumps.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.activated_bumps import ActivatedBumps
from kanexport.bases.relu_bumps import ReluBumps
from kanexport.functions.elementwise import activation


def examples() -> list[Basis]:
    """Bumps of smooth activations and of the ReLU, for the conformance test."""
    low = np.tile(np.arange(-3, 5) / 5, (3, 1)) + np.random.default_rng(0).normal(0, 0.03, size=(3, 8))
    square, plain = (ReluBumps(low, low + 0.8, 6.25, power) for power in (2, 1))
    smooth = [ActivatedBumps(square, activation(name)) for name in ("silu", "gelu", "tanh", "softplus")]
    return [ActivatedBumps(plain, activation("relu"), times_x=True), *smooth, ActivatedBumps(plain, activation("silu"))]
