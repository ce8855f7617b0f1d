"""Examples of `kanexport/bases/sech2.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.sech2 import Sech2


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    return [Sech2(np.linspace(-1.2, 1.2, 8)), Sech2(np.linspace(-1.2, 0.2, 5), 0.5), Sech2(np.array([0.3]), -3.0)]
