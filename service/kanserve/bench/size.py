"""How many parameters a network of edges has, and the MLP that has as many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from kanexport.manifest import LayerInfo

AFFINE = 2  # numbers with which an edge shifts and stretches a function for itself
SYMBOLIC = 4  # a, b, c, d of a symbolic edge


def parameters(layers: Sequence[LayerInfo]) -> int:
    """Numbers that training chose: a coefficient for every function of an edge that is not masked, a symbolic edge's
    four, and biases. Knots, and what stands between layers, are not counted."""
    return sum(_of_layer(layer) for layer in layers)


def _of_layer(layer: LayerInfo) -> int:
    edges = layer.sources * layer.destinations
    if layer.mask:
        edges = sum(value != 0 for row in layer.mask for value in row)
    each = sum(basis.functions + AFFINE * basis.per_edge for basis in layer.bases)
    return edges * each + SYMBOLIC * sum(edge.mask != 0 for edge in layer.symbolic) + len(layer.bias)


def edges(layers: Sequence[LayerInfo]) -> int:
    """Edges that can contribute, evaluated for one row: at every position of it."""
    return sum(layer.active_edges * math.prod(layer.positions) for layer in layers)


def mlp_widths(given: int, result: int, layers: int, wanted: int) -> tuple[int, ...]:
    """Of an MLP with as many layers, and at least one hidden one, whose parameters are nearest to `wanted`: all hidden
    layers as wide, at least one node."""
    hidden = max(1, layers - 1)

    def widths(width: int) -> tuple[int, ...]:
        return (given, *itertools.repeat(width, hidden), result)

    low, high = 1, 2
    while mlp_parameters(widths(high)) < wanted:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if mlp_parameters(widths(middle)) < wanted else (low, middle)
    return min(widths(low), widths(high), key=lambda one: abs(mlp_parameters(one) - wanted))


def mlp_parameters(widths: Sequence[int]) -> int:
    """Weights and biases."""
    return sum((sources + 1) * destinations for sources, destinations in itertools.pairwise(widths))
