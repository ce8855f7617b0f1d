"""What a report of a served KAN says, from what the server answers.

Who asks is for others: the command does over gRPC, the server itself for its page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from kanexport.manifest import HYBRID, LayerInfo, arrows
from kanserve.client.curves import LayerCurves
from kanserve.client.description import Description
from kanserve.client.scores import Scores
from kanserve.console import layers, score_tables
from kanserve.interpret import formula
from kanserve.interpret.terms import FormulaError
from kanserve.pictures import edge, matrix, network
from kanserve.pictures.figure import Curve
from kanserve.pictures.page import Bars, Facts, Grid, Part, Pictures, Report
from kanserve.pictures.scene import Scene
from kanserve.portrait import figures

LINES = 6000  # edges; a network of more is fields of colour
POINTS = 33  # of a curve on its edge
LARGE = 129  # of a curve by itself
EDGES, INPUTS = 24, 40  # that a report has at most
SMALL = 0.7  # of the size of one edge's picture
DIGITS, LONGEST = 4, 2000  # of a formula: significant digits, characters
Edge = tuple[int, int, int]  # layer, source, destination


class Curves(Protocol):
    """Asks for curves of edges."""

    def __call__(
        self, *, layers: Sequence[int], sources: Sequence[int] = (), destinations: Sequence[int] = (), points: int
    ) -> Sequence[LayerCurves]:
        """Of all sources and destinations where none are named. Nothing, where edges are no curves."""


def drawn(curves: Curves, described: Description, scores: Scores) -> Scene:
    """The network."""
    small = [
        at
        for at, layer in enumerate(described.layers)
        if layer.sources * layer.destinations <= network.CURVES and layer.edge_class == "A"
    ]
    found = figures.network(described, scores, curves(layers=small, points=POINTS) if small else ())
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


def report(curves: Curves, described: Description, scores: Scores | None) -> Report:
    """The whole of it. `scores` None: there are none, and no pictures that are made of them."""
    pictures: list[Part] = []
    if scores is not None:
        pictures = [
            Pictures("The network", _over(scores), [drawn(curves, described, scores)]),
            _inputs(described, scores),
            *_edges(curves, described, scores),
        ]
    parts: list[Part] = [
        _card(described),
        *_formula(described),
        _source(described),
        *_proof(described),
        *pictures,
        Facts("Layers", [(str(at), _layer(layer)) for at, layer in enumerate(described.layers)]),
    ]
    lead = described.names.description or f"{described.family}, {arrows(described.shapes)}"
    footer = f"kanserve report; digest of the graph {described.digest}"
    return Report(f"{described.name}, version {described.version}", lead, parts, footer)


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
        *(("Note", note) for note in described.notes),
    ]
    return Facts("What it is", lines)


def _formula(described: Description) -> Sequence[Facts]:
    """Nothing, where an edge that matters is numeric, or it would be too long to read."""
    if described.family == HYBRID or not any(layer.symbolic for layer in described.layers):
        return ()
    inputs = formula.tokens(described.names.features, "x", described.input.shape[-1])
    outputs = formula.tokens(described.names.classes, "y", described.output.shape[-1])
    try:
        found = formula.formulas(inputs, described.layers, digits=DIGITS, outputs=outputs)
    except FormulaError:
        return ()
    lines = [(line.name, line.expression) for line in found]
    return () if any(len(text) > LONGEST for _, text in lines) else (Facts("Formula", lines),)


def _source(described: Description) -> Facts:
    lines = [
        *(("File", f"{one.name}, sha256 {one.sha256}") for one in described.files),
        *(("Said by its user", f"{name} = {value}") for name, value in sorted(described.given.items())),
        *(("Assumed", f"{name} = {value}") for name, value in sorted(described.assumed.items())),
        *([("Exporter", described.exporter)] if described.exporter else []),
        ("Rows outside", described.outside),
        ("Limits", f"{described.max_batch_size} rows of a request, {described.max_rows} of an edge query"),
    ]
    return Facts("Where it came from, and its limits", lines)


def _proof(described: Description) -> Sequence[Part]:
    error = described.verified_error
    lines = [("Export", described.claim)]
    if math.isfinite(error):
        lines.append(("Largest error", f"{error:.1e} of the largest output, against float64, on finite rows"))
    found: list[Part] = [Facts("What it was verified against", lines)]
    if described.zones:
        outputs, edges = described.tolerances
        remark = (
            f"Largest errors of each group of rows, by its largest magnitude; allowed are {outputs:.0e} of outputs and "
            f"{edges:.0e} of edges."
        )
        head = ("rows", "how many", "outputs", "edges", "worst edge")
        zones = [
            (
                zone.name,
                str(zone.rows),
                f"{zone.outputs_max_rel:.1e}" if zone.worst_output or zone.outputs_max_rel else "-",
                f"{zone.edges_max_rel:.1e}" if zone.worst_edge or zone.edges_max_rel else "-",
                zone.worst_edge or "-",
            )
            for zone in described.zones
        ]
        found.append(Grid("Zones of the proof", remark, head, zones))
    return found


def _inputs(described: Description, scores: Scores) -> Bars:
    named = [(described.names.feature(at), float(score)) for at, score in enumerate(scores.features)]
    found = sorted(((name, score) for name, score in named if math.isfinite(score)), key=lambda line: -line[1])
    remark = f"pykan's feature_score; {min(INPUTS, len(found))} of {len(named)} inputs"
    return Bars("What its inputs matter", remark, found[:INPUTS])


def _edges(curves: Curves, described: Description, scores: Scores) -> Sequence[Pictures]:
    wanted = [(layer, source, destination) for layer, source, destination, _ in score_tables.strongest(scores, EDGES)]
    found = dict(_curves(curves, wanted))
    scenes = [one_edge(described, found[one]) for one in wanted if one in found]
    if not scenes:
        return ()
    return (Pictures("The edges that matter most", f"{len(scenes)} of them, over their grids.", scenes),)


def _curves(curves: Curves, wanted: Sequence[Edge]) -> Iterator[tuple[Edge, LayerCurves]]:
    """Each wanted curve. One request per layer gets all its curves, because one curve takes as long as all of them."""
    for layer in dict.fromkeys(one[0] for one in wanted):
        own = [one for one in wanted if one[0] == layer]
        sources, destinations = (sorted({one[at] for one in own}) for at in (1, 2))
        for many in curves(layers=[layer], sources=sources, destinations=destinations, points=LARGE):
            for one in own:
                row, column = many.sources.index(one[1]), many.destinations.index(one[2])
                yield (
                    one,
                    replace(
                        many,
                        sources=(one[1],),
                        destinations=(one[2],),
                        x=many.x[row : row + 1],
                        phi=many.phi[row : row + 1, column : column + 1],
                        domains=(many.domains[row],),
                    ),
                )
