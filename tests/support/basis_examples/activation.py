"""Examples of `kanexport/bases/activation.py`."""

from kanexport.bases import Basis
from kanexport.bases.activation import Activation
from kanexport.functions.elementwise import ACTIVATIONS


def examples() -> list[Basis]:
    """Every known activation, for the conformance test."""
    return [Activation(function) for function in ACTIVATIONS.values()]
