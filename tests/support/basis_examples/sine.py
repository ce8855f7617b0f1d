"""Examples of `kanexport/bases/sine.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.sine import Sine


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    rng = np.random.default_rng(0)
    frequencies = [np.arange(1.0, 2), np.arange(1.0, 5) / 5, rng.normal(size=6), np.array([0.0, -300.0])]
    return [Sine(each, rng.uniform(0, 9, size=(len(each), 3))) for each in frequencies]
