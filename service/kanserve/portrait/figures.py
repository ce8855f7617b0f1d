"""What a server answers, as what the pictures draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import HYBRID, LayerInfo, arrows
from kanserve.client.curves import LayerCurves
from kanserve.client.description import Description
from kanserve.client.scores import Scores
from kanserve.pictures.figure import Curve, Layer, Network
from kanserve.pictures.scene import BLACK

OVER = {"rows": "the rows given", "reference": "rows drawn from the grid (--input has yours)"}
Flags = NDArray[np.bool_]


def network(described: Description, scores: Scores, curves: Sequence[LayerCurves]) -> Network:
    """A network with its scores, and the curves of those layers that have some."""
    by_layer = {layer.layer: layer for layer in curves}
    layers = tuple(
        _layer(layer, score.edges, by_layer.get(at))
        for at, (layer, score) in enumerate(zip(described.layers, scores.layers, strict=True))
    )
    nodes = len(scores.layers[0].nodes)
    return Network(
        title=f"{described.name} version {described.version}: {described.family}, {arrows(described.shapes)}",
        caption=f"edges as opaque as they matter over {scores.row_count} rows, {OVER.get(scores.over, '')}; "
        "black numeric, red symbolic, purple both",
        inputs=tuple(described.names.feature(at) for at in range(nodes)),
        outputs=tuple(described.names.output(at) for at in range(len(layers[-1].groups))),
        layers=layers,
    )


def _layer(layer: LayerInfo, scores: NDArray[np.float32], curves: LayerCurves | None) -> Layer:
    symbolic, numeric = kinds(layer)
    found = {}
    if curves is not None:
        for row, source in enumerate(curves.sources):
            for column, destination in enumerate(curves.destinations):
                found[source, destination] = Curve(curves.x[row], curves.phi[row, column])
    groups = next((step.indices for step in layer.after if step.kind == "product"), (1,) * layer.destinations)
    return Layer(scores, symbolic, numeric, columns(layer), groups, found)


def ends(described: Description, layer: int, source: int, destination: int) -> tuple[str, str]:
    """What the ends of an edge are called: features and classes, x0 and y0 without names, else nodes."""
    inside = layer or described.family == HYBRID
    first = f"node {source}" if inside else described.names.feature(columns(described.layers[0])[source])
    moved = any(step.kind in ("select", "product") for step in described.layers[layer].after)
    if layer < len(described.layers) - 1 or moved or described.family == HYBRID:
        return first, f"node {destination}"
    return first, described.names.output(destination)


def kinds(layer: LayerInfo) -> tuple[Flags, Flags]:
    """Which edges are symbolic, and which numeric, [S, D] each."""
    shape = layer.sources, layer.destinations
    symbolic = np.zeros(shape, bool)
    for edge in layer.symbolic:
        symbolic[edge.source, edge.destination] |= edge.mask != 0
    if not layer.mask:
        return symbolic, np.full(shape, bool(layer.bases))
    # Row by row: a million numbers at once would block the other threads for 0.1 s.
    return symbolic, np.array([np.array(row) != 0 for row in layer.mask])


def colour(layer: LayerInfo, source: int, destination: int) -> str:
    """The color of one edge, as in the network. It does not need the other edges, which may be a million."""
    edges = [edge for edge in layer.symbolic if (edge.source, edge.destination) == (source, destination)]
    symbolic = np.array([[any(edge.mask != 0 for edge in edges)]])
    numeric = np.array([[layer.mask[source][destination] != 0 if layer.mask else bool(layer.bases)]])
    return Layer(np.ones((1, 1)), symbolic, numeric, (), ()).colour(0, 0) or BLACK


def knots(layer: LayerInfo, source: int) -> list[float]:
    """Of the grids of a source, in its own units."""
    if any(step.kind != "select" for step in layer.before):
        return []
    rows = [basis.knots for basis in layer.bases if basis.knots and not basis.before]
    return [knot for row in rows for knot in row[source if len(row) > 1 else 0]]


def columns(layer: LayerInfo) -> tuple[int, ...]:
    """Which of the nodes that the layer is given each of its sources is."""
    chosen = [step.indices for step in layer.before if step.kind == "select"]
    return chosen[0] if chosen else tuple(range(layer.sources))
