"""Examples of `kanexport/bases/piecewise_linear.py`."""

from kanexport.bases import Basis
from kanexport.bases.piecewise_linear import Hats


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    return [Hats(2, 4.0), Hats(3, 1.0), Hats(8, 4.0), Hats(33, 10.0)]
