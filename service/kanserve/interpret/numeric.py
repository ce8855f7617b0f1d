"""Numeric edges in formulas: they have no closed form, and are functions with a name, phi_LAYER_SOURCE_DESTINATION.

Each is what GetCurves and the layer's edge graph give of it, whatever it is made of: where an edge is symbolic as well,
its symbolic function is a part of that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from kanexport.manifest import LayerInfo
from kanserve.interpret.terms import ATOM, LIMIT, FormulaError, Linear, Text, TooLong

NAME = re.compile(r"\bphi_(\d+)_(\d+)_(\d+)\(")
SHORTEST = len("phi_0_0_0(x0) + ")  # what an edge adds to a formula at least
MIXING = frozenset({"layernorm", "rmsnorm", "groupnorm", "rowrange", "module", "softmax", "log_softmax"})


def sources(layer: LayerInfo, destination: int) -> list[int]:
    """Those whose edges to a destination are not symbolic alone."""
    if not layer.bases:
        return []
    return [at for at in range(layer.sources) if not layer.mask or layer.mask[at][destination] != 0]


def named(expressions: Iterable[str]) -> list[tuple[int, int, int]]:
    """The edges [layer, source, destination] that formulas have by name, each once."""
    found = {edge for expression in expressions for edge in NAME.findall(expression)}
    return sorted((int(layer), int(source), int(destination)) for layer, source, destination in found)


def check(index: int, layer: LayerInfo, *, partial: bool) -> None:
    """Raises FormulaError for a layer with numeric edges; if `partial`, where they read more than their sources."""
    first = _first(layer)
    if first is None:
        return
    kinds = ", ".join(basis.kind for basis in layer.bases)
    if not partial:
        source, destination = first
        raise FormulaError(f"edge ({index},{source},{destination}) is numeric ({kinds}), so there is no closed form")
    if _mixes(layer):
        raise FormulaError(
            f"the numeric edges of layer {index} ({kinds}) read the whole row, so that none is a function of one node"
        )


def _first(layer: LayerInfo) -> tuple[int, int] | None:
    return next(((source, at) for at in range(layer.destinations) for source in sources(layer, at)), None)


def _mixes(layer: LayerInfo) -> bool:
    """Whether an edge reads more than its source."""
    steps = (*layer.before, *(step for basis in layer.bases for step in basis.before))
    return layer.edge_class == "B" or any(step.kind in MIXING or step.function in MIXING for step in steps)


def calls(index: int, destination: int, nodes: Sequence[tuple[int, Linear]], digits: int) -> Iterator[Linear]:
    """The edges of a destination, from its sources and what they are. Raises TooLong."""
    length = len(nodes) * SHORTEST
    for source, node in nodes:
        if length > LIMIT:
            raise TooLong
        text = Text(f"phi_{index}_{source}_{destination}({node.render(digits).text})", ATOM)
        length += len(text.text) - SHORTEST
        yield Linear.of(text)
