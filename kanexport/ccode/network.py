"""Nodes of a network with one row: its outputs, and the contributions of its inputs.

The graphs are those that the exporter verifies: the serving graph in the form with the custom operator, the edges of
each layer, and the graph of contributions. Constants that several of them have are one table in C.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kanexport.ccode import operators
from kanexport.ccode.nodes import FLOAT, Given, Node, transposed
from kanexport.graph.external_data import Weights
from kanexport.graph.opened import opened
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.lowering.attribution import Anchor, contributions_graph
from kanexport.lowering.lower import EDGES, INPUT, OUTPUT
from kanexport.shared import custom_ops, grids
from kanexport.shared.manifest import LayerInfo
from kanexport.shared.sections import CONTRIBUTIONS

DTYPE = "float32"
MEAN, CENTER, ZEROS = "mean of the baseline rows", "middle of each input's grid", "zeros"

Array = npt.NDArray[np.float64]


def network(kan: Kan, node_tensors: Sequence[str], anchor: Anchor | None) -> tuple[Node, Node | None]:
    """The nodes of the outputs [1, m] and, with an anchor, of the contributions [1, m, n]. Raises InvalidKan for an
    operator without C."""
    weights = Weights()
    graph = opened(lower.serving_graph(kan, tuple(node_tensors), DTYPE, weights, custom=(custom_ops.SPLINES,)), weights)
    row = Given((1, kan.n_inputs), FLOAT, INPUT)
    values = operators.nodes(graph, {INPUT: row})
    if anchor is None:
        return values[OUTPUT], None
    edges: dict[str, Node] = {}
    for at, (layer, name, width) in enumerate(zip(kan.layers, node_tensors, kan.widths(), strict=False)):
        of_edges = opened(lower.edge_graph(layer, name, width, DTYPE, weights, kernel=True), weights)
        edges[f"{EDGES}{at}"] = operators.nodes(of_edges, {name: values[name]})[EDGES]
    last = opened(contributions_graph(anchor, list(edges), DTYPE))
    contributions = operators.nodes(last, edges)[CONTRIBUTIONS]
    return values[OUTPUT], transposed(contributions, (0, 2, 1))


def reference(layers: Sequence[LayerInfo], width: int, mean: Sequence[float]) -> tuple[str, Array]:
    """The name and the row of the reference that `kanserve explain` has by default: the mean of the baseline rows, the
    middle of each input's grid, or zeros if an input has no grid."""
    if mean:
        return MEAN, np.array(mean)
    middle = _middle(layers[0], width)
    return (ZEROS, np.zeros(width)) if middle is None else (CENTER, middle)


def _middle(layer: LayerInfo, width: int) -> Array | None:
    sources = grids.sources(layer)
    if sources is None:
        return None
    middle = np.zeros(width)
    for at, source in enumerate(sources):
        knots = source.in_node_units(_knots(layer, at))
        if not knots:
            return None
        middle[source.node] = (min(knots) + max(knots)) / 2
    return middle


def _knots(layer: LayerInfo, source: int) -> tuple[float, ...]:
    """The finite knots of a source."""
    rows = [basis.knots for basis in layer.bases if basis.knots and not (basis.pre_steps or basis.per_edge)]
    return tuple(knot for row in rows for knot in row[source if len(row) > 1 else 0] if np.isfinite(knot))
