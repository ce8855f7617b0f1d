"""Examples of `kanexport/bases/rational.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.rational import Rational


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    rng = np.random.default_rng(0)
    identity = np.tile([0.0, 1.0, 0.0, 0.0, 0.0, 0.0], (3, 1))
    gelu = np.array([-0.00153969, 0.51692871, 0.44075827, 0.0972553, -0.00884418, -0.00378675])
    below = np.array([-0.14171056, -0.06481231, -0.0444695, 0.01283776])
    return [
        Rational(identity, np.zeros((3, 4))),
        Rational(np.tile(gelu, (3, 1)), np.tile(below, (3, 1))),
        Rational(rng.normal(size=(3, 6)), rng.normal(size=(3, 4))),
        Rational(rng.normal(size=(3, 3)), rng.normal(size=(3, 4))),
        Rational(np.zeros((3, 2)), rng.normal(size=(3, 2))),
        Rational(rng.normal(size=(3, 6)), np.abs(rng.normal(size=(3, 4))) * [0, 1, 0, 1], "signed"),
        Rational(rng.normal(size=(3, 6)), rng.normal(size=(3, 4)), "outer"),
        Rational(rng.normal(size=(3, 3)), np.zeros((3, 4)), "outer"),
    ]
