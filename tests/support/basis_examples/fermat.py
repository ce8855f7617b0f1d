"""Examples of `kanexport/bases/fermat.py`."""

from kanexport.bases import Basis
from kanexport.bases.fermat import Fermat


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    return [Fermat(degree) for degree in (0, 1, 4, 10)]
