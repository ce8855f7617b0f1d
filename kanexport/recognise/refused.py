"""Networks that are called KANs, or come from a KAN library, and have no function on an edge.

They are told by the names of their tensors, so that the refusal can give the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from kanexport.layers.parts import Tensors

PADE = frozenset({"alpha_p", "beta_p", "zeta_p", "w_p", "alpha_q", "beta_q", "zeta_q", "w_q"})
JACOBI = frozenset({"alpha", "beta", "iota"})
FRACTIONAL = frozenset({"alpha", "beta", "gamma"})
SHARED = (
    "one activation with a trained shape, shared by all nodes, between ordinary Linear layers; no edge has a function"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The tensors of one module, all there under one prefix, each with a single axis, and what it is."""

    names: frozenset[str]
    what: str


REFUSALS = (
    Refusal(PADE, f"rKAN's PadeRKAN is {SHARED}"),
    Refusal(JACOBI, f"rKAN's JacobiRKAN is {SHARED}"),
    Refusal(FRACTIONAL, f"fKAN's FractionalJacobiNeuralBlock is {SHARED}"),
)


def reason(tensors: Tensors) -> str:
    """Why a checkpoint is of none of the families that are read, where that is known; else an empty text."""
    groups: dict[str, set[str]] = {}
    for key, value in tensors.items():
        prefix, dot, name = key.rpartition(".")
        if value.ndim == 1:
            groups.setdefault(prefix + dot, set()).add(name)
    for prefix, names in groups.items():
        for refusal in REFUSALS:
            if refusal.names == names:
                keys = ", ".join(prefix + name for name in sorted(names)[:3])
                return f"it holds {keys}: {refusal.what}"
    return ""
