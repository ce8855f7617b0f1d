"""What a report of a served KAN says, from what the server answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kanexport.manifest import LayerInfo, arrows
from kanserve.client.connection import Client
from kanserve.client.curves import LayerCurves
from kanserve.client.description import Description
from kanserve.client.errors import NotSupported
from kanserve.client.scores import Scores
from kanserve.console import figures, layers, score_tables
from kanserve.pictures import edge, matrix, network, page
from kanserve.pictures.figure import Curve
from kanserve.pictures.page import Bars, Facts, Part, Pictures
from kanserve.pictures.scene import Scene

LINES = 6000  # edges; a network of more is fields of colour
POINTS = 33  # of a curve on its edge
LARGE = 129  # of a curve by itself
EDGES, INPUTS = 24, 40  # that a report has at most
SMALL = 0.7  # of the size of one edge's picture


def drawn(client: Client, described: Description, scores: Scores) -> Scene:
    """The network."""
    small = [
        at
        for at, layer in enumerate(described.layers)
        if layer.sources * layer.destinations <= network.CURVES and layer.edge_class == "A"
    ]
    curves = client.curves(described.name, described.version, layers=small, points=POINTS) if small else ()
    found = figures.network(described, scores, curves)
    return network.scene(found) if found.edges <= LINES else matrix.scene(found)


def one_edge(described: Description, found: LayerCurves) -> Scene:
    """The only edge of these curves."""
    source, destination = found.sources[0], found.destinations[0]
    layer = described.layers[found.layer]
    knots = figures.knots(layer, source)
    names = figures.ends(described, found.layer, source, destination)
    return edge.scene(
        f"{described.name} version {described.version}, layer {found.layer}: {names[0]} to {names[1]}",
        f"range: {found.domains[0]}" + ("; knots in blue" if knots else ""),
        names,
        Curve(found.x[0], found.phi[0, 0]),
        knots,
        figures.colour(layer, source, destination),
    )


def html(client: Client, described: Description, scores: Scores) -> str:
    """The whole report."""
    parts: list[Part] = [
        _card(described),
        _proof(described),
        Pictures("The network", _over(scores), [drawn(client, described, scores)]),
        _inputs(described, scores),
        *_edges(client, described, scores),
        Facts("Layers", [(str(at), _layer(layer)) for at, layer in enumerate(described.layers)]),
    ]
    lead = described.names.description or f"{described.family}, {arrows(described.shapes)}"
    footer = f"kanserve report; digest of the graph {described.digest}"
    return page.html(f"{described.name}, version {described.version}", lead, parts, footer)


def _layer(layer: LayerInfo) -> str:
    """In words."""
    parts = [
        f"{layer.sources} to {layer.destinations} nodes" + (f" ({layer.name})" if layer.name else ""),
        f"before: {layers.steps(layer.before)}" if layer.before else "",
        ", ".join(layers.functions(layer)),
        f"then {layers.sums(layer)}" if layers.sums(layer) else "",
    ]
    return "; ".join(filter(None, parts))


def _over(scores: Scores) -> str:
    return (
        f"Edges are as dark as they matter over {scores.row_count} rows: {score_tables.OVER.get(scores.over, '')}. "
        "Black is numeric, red symbolic, purple both."
    )


def _card(described: Description) -> Facts:
    lines = [
        ("Library", described.family),
        ("Shape", arrows(described.shapes)),
        ("Edges", f"{sum(layer.active_edges for layer in described.layers)} that can add something"),
        ("Edge class", described.edge_class),
        ("Inputs", ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in described.inputs)),
        ("Outputs", ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in described.outputs)),
        *(("Assumed", f"{name} = {value}") for name, value in described.assumed.items()),
        *(("Note", note) for note in described.notes),
    ]
    return Facts("What it is", lines)


def _proof(described: Description) -> Facts:
    error = described.verified_error
    lines = [("Export", described.claim)]
    if math.isfinite(error):
        lines.append(("Largest error", f"{error:.1e} of the largest output, against float64, on finite rows"))
    return Facts("What it was verified against", lines)


def _inputs(described: Description, scores: Scores) -> Bars:
    named = [(described.names.feature(at), float(score)) for at, score in enumerate(scores.features)]
    found = sorted(((name, score) for name, score in named if math.isfinite(score)), key=lambda line: -line[1])
    remark = f"pykan's feature_score; {min(INPUTS, len(found))} of {len(named)} inputs"
    return Bars("What its inputs matter", remark, found[:INPUTS])


def _edges(client: Client, described: Description, scores: Scores) -> Sequence[Pictures]:
    scenes = []
    for layer, source, destination, _ in score_tables.strongest(scores, EDGES):
        try:
            (found,) = client.curves(
                described.name,
                described.version,
                layers=[layer],
                sources=[source],
                destinations=[destination],
                points=LARGE,
            )
        except NotSupported:  # an edge of class B is no curve
            continue
        scenes.append(one_edge(described, found))
    if not scenes:
        return ()
    return (Pictures("The edges that matter most", f"{len(scenes)} of them, over their grids.", scenes),)
