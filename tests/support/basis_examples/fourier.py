"""Examples of `kanexport/bases/fourier.py`."""

from kanexport.bases import Basis
from kanexport.bases.fourier import Fourier


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    return [Fourier(1), Fourier(5), Fourier(64), Fourier(300)]
