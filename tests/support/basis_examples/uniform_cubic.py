"""Examples of `kanexport/bases/uniform_cubic.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.uniform_cubic import Cubic


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    starts = [np.arange(8) * 0.4 - 2.2, np.arange(23) * 0.1 - 1.3, np.arange(4) * 3.0 + 5]
    return [Cubic(s.astype(np.float32).astype(np.float64), float(s[1] - s[0])) for s in starts]
