"""The content of a report of a served KAN, from its description, its scores and its curves.

The command gets these over gRPC, and the server from its use cases. `selection` says which curves to get.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import formula, grids
from kanexport.shared.cli.certificates import RANGES, direction_text
from kanexport.shared.formula_printer import FormulaError
from kanexport.shared.manifest import HYBRID, LayerInfo, arrows
from kanserve.plotting import figures, render, scenes
from kanserve.plotting.scenes import BLACK, Curve, Layer, Network, Scene
from kanserve.report import descriptions
from kanserve.report.page import Bars, Facts, Grid, Part, Pictures, Report
from kanserve.report.selection import Curves, Plan, on_network_request
from kanserve.types import Description, LayerCurves, Scores

LINES = 6000  # edges; a larger network is drawn as matrices of colors
INPUTS = 40  # maximum of a report
PAIRS = 640  # of a certificate in a report

REGIONS = {
    "inside": "in grid",
    "extension": "extended grid",
    "knots": "on knots",
    "far": "out of grid",
    "nonfinite": "NaN, infinity",
    "single": "batch of 1",
}
EXAMPLE = {"inside": "example rows", "scaled": "example, scaled", "noise": "example, noise"}  # of a PyTorch module
DIGITS, LONGEST = 4, 2000  # significant digits and characters of a formula


def drawn(described: Description, scores: Scores, curves: Sequence[LayerCurves]) -> Scene:
    """Picture of the network, with the curves of `on_network_request`."""
    figure = network_figure(described, scores, curves)
    return scenes.scene(figure) if figure.edges <= LINES else figures.matrix_scene(figure)


def one_edge(described: Description, curves: LayerCurves, at: tuple[int, int] = (0, 0)) -> Scene:
    """Plot of one edge of these curves. `at`: the positions of its source and its destination."""
    row, column = at
    source, destination = curves.sources[row], curves.destinations[column]
    layer = described.layers[curves.layer]
    knots = knot_positions(layer, source)
    names = ends(described, curves.layer, source, destination)
    return figures.edge_scene(
        f"{described.name} version {described.version}, edge {curves.layer}:{source}:{destination} "
        f"({names[0]} → {names[1]})",
        f"range: {curves.domains[row]}" + ("; knots in blue" if knots else ""),
        names,
        Curve(curves.x[row], curves.phi[row, column]),
        knots,
        colour(layer, source, destination),
    )


def report(plan: Plan, curves: Curves) -> Report:
    """The report. `curves`: the responses to `plan.requests`."""
    described = plan.described
    lines = [
        ("Library", described.family),
        ("Shape", arrows(described.shapes)),
        ("Active edges", str(sum(layer.active_edges for layer in described.layers))),
        ("Edge class", described.edge_class),
        ("Inputs", ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in described.inputs)),
        ("Outputs", ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in described.outputs)),
        *((what.capitalize(), text) for what, text in descriptions.scaler_lines(described.scalers, described.names)),
        *((what.capitalize(), text) for what, text in descriptions.edit_lines(described.edit)),
        *(("Note", note) for note in described.notes),
    ]
    parts: list[Part] = [
        Facts("Description", lines),
        *_formula(described),
        Facts(
            "Source and limits",
            [
                *(("File", f"{item.name}, sha256 {item.sha256}") for item in described.files),
                *(("Option given", f"{name} = {value}") for name, value in sorted(described.options_given.items())),
                *(("Option assumed", f"{name} = {value}") for name, value in sorted(described.options_assumed.items())),
                *([("Exporter", described.exporter)] if described.exporter else []),
                ("Out-of-range policy", described.out_of_range_policy),
                ("Limits", f"{described.max_batch_size} rows per request, {described.max_rows} rows per edge query"),
            ],
        ),
        *_proof(described),
        *_certificate(described),
    ]
    if plan.scores is not None:
        parts += _importance(plan, plan.scores, curves)
    parts.append(Facts("Layers", [(str(at), _layer(layer)) for at, layer in enumerate(described.layers)]))
    lead = described.names.description or f"{described.family}, {arrows(described.shapes)}"
    footer = f"kanserve model card; digest of the graph {described.digest}"
    return Report(f"{described.name}, version {described.version}", lead, parts, footer)


def _importance(plan: Plan, scores: Scores, curves: Curves) -> list[Part]:
    """The network, the importance of its inputs, and the edges of the plan that have a curve."""
    described = plan.described
    over = descriptions.OVER.get(scores.source, "")
    remark = (
        f"Opacity shows importance over {scores.row_count} rows: {over}. "
        "Numeric edges are black, symbolic edges are red, edges with both parts are purple."
    )
    request = on_network_request(described)
    picture = drawn(described, scores, curves[request] if request is not None else ())
    parts: list[Part] = [Pictures("Network", remark, [picture])]
    named = [(described.names.feature(at), float(score)) for at, score in enumerate(scores.features)]
    bars = sorted(((name, score) for name, score in named if math.isfinite(score)), key=lambda line: -line[1])
    remark = f"pykan attribution scores (feature_score); {min(INPUTS, len(bars))} of {len(named)} inputs"
    parts.append(Bars("Input importance", remark, bars[:INPUTS]))
    layers = {layer.layer: layer for request in plan.edge_requests for layer in curves[request]}
    pictures = []
    for at, source, destination in plan.edges:
        if (layer := layers.get(at)) is not None:
            place = layer.sources.index(source), layer.destinations.index(destination)
            pictures.append(one_edge(described, layer, place))
    if pictures:
        parts.append(Pictures("Most important edges", f"{len(pictures)} edges, over their grids.", pictures))
    return parts


def _layer(layer: LayerInfo) -> str:
    """Description of a layer in words."""
    parts = [
        f"{layer.sources} to {layer.destinations} nodes" + (f" ({layer.name})" if layer.name else ""),
        f"before: {descriptions.steps(layer.pre_steps)}" if layer.pre_steps else "",
        ", ".join(descriptions.functions(layer)),
        f"then {descriptions.sums(layer)}" if descriptions.sums(layer) else "",
    ]
    return "; ".join(filter(None, parts))


def _formula(described: Description) -> Sequence[Facts]:
    """The formula. Empty if an active edge is numeric, or if the formula is too long to read."""
    if described.family == HYBRID or not any(layer.symbolic for layer in described.layers):
        return ()
    inputs = formula.tokens(described.names.features, "x", described.input.shape[-1])
    outputs = formula.tokens(described.names.classes, "y", described.output.shape[-1])
    try:
        result = formula.formulas(inputs, described.layers, digits=DIGITS, outputs=outputs)
    except FormulaError:
        return ()
    lines = [(line.name, line.expression) for line in result]
    return () if any(len(text) > LONGEST for _, text in lines) else (Facts("Formula", lines),)


def _proof(described: Description) -> Sequence[Part]:
    error = described.verified_error
    lines = [("Export", described.claim)]
    if math.isfinite(error):
        lines.append(("Largest error", f"{error:.1e} of the largest output, compared with float64, on finite rows"))
    result: list[Part] = [Facts("Verification", lines)]
    if described.zones:
        outputs, edges = described.tolerances
        remark = (
            "Largest errors of each test region, relative to its largest magnitude. "
            f"Tolerances: outputs {outputs:.0e}, edges {edges:.0e}."
        )
        head = ("region", "rows", "outputs", "edges", "worst edge")
        words = REGIONS | (EXAMPLE if described.family == HYBRID else {})
        zones = [
            (
                words.get(zone.name, zone.name),
                str(zone.rows),
                f"{zone.outputs_max_rel:.1e}" if zone.worst_output or zone.outputs_max_rel else "-",
                f"{zone.edges_max_rel:.1e}" if zone.worst_edge or zone.edges_max_rel else "-",
                zone.worst_edge or "-",
            )
            for zone in described.zones
        ]
        result.append(Grid("Test regions", remark, head, zones))
    return result


def _certificate(described: Description) -> Sequence[Part]:
    """Certified ranges, effects of the inputs on them, and assumptions. Empty without a certificate."""
    stored, names = described.certificate, described.names
    if not stored:
        return ()
    bounds = zip(stored.output_low, stored.found_low, stored.found_high, stored.output_high, stored.slack, strict=True)
    ranges = [(names.output(at), *(f"{value:.4g}" for value in row)) for at, row in enumerate(bounds)]
    remark = (
        f"{stored.text[0].upper()}{stored.text[1:]}. No row in the box has an output outside of its certified range, "
        "under the assumptions below."
    )
    parts: list[Part] = [Grid("Certified ranges", remark, ("output", *RANGES[:4], "float32 slack"), ranges)]
    # Direction and Lipschitz bound of each pair of an input and an output, unless they are too many to read.
    pairs = [(i, o) for i, row in enumerate(stored.lipschitz) for o in range(len(row))]
    if 0 < len(pairs) <= PAIRS:
        lines = [
            (
                names.feature(i),
                f"{stored.low[i]:.4g}",
                f"{stored.high[i]:.4g}",
                names.output(o),
                f"{stored.lipschitz[i][o]:.4g}",
                direction_text(stored, i, o),
            )
            for i, o in pairs
        ]
        head = ("input", "low", "high", "output", "Lipschitz bound", "direction")
        remark = "Over the certified box. The bound is the largest change of the output per unit of the input."
        parts.append(Grid("Certified effects", remark, head, lines))
    parts.append(Facts("Certificate", [("Assumes", text) for text in stored.assumptions]))
    return parts


# Short, because the caption of a picture has one line.
OVER = {
    "rows": "the rows of --input",
    "live": "live traffic",
    "baseline": "the baseline",
    "reference": "synthetic verification rows",
}
Flags = NDArray[np.bool_]


def network_figure(described: Description, scores: Scores, curves: Sequence[LayerCurves]) -> Network:
    """A network with its scores, and the curves of the layers that have curves."""
    by_layer = {layer.layer: layer for layer in curves}
    layers = []
    for at, (layer, score) in enumerate(zip(described.layers, scores.layers, strict=True)):
        block = by_layer.get(at)
        symbolic, numeric = kinds(layer)
        pictures = {}
        if block is not None:
            for row, source in enumerate(block.sources):
                for column, destination in enumerate(block.destinations):
                    pictures[source, destination] = Curve(block.x[row], block.phi[row, column])
        groups = next((step.indices for step in layer.post_steps if step.kind == "product"), (1,) * layer.destinations)
        layers.append(Layer(score.edges, symbolic, numeric, columns(layer), groups, pictures))
    nodes = len(scores.layers[0].nodes)
    return Network(
        title=f"{described.name} version {described.version}: {described.family}, {arrows(described.shapes)}",
        caption=f"opacity: importance over {scores.row_count} rows, {OVER.get(scores.source, '')}; "
        "black: numeric, red: symbolic, purple: both",
        inputs=tuple(described.names.feature(at) for at in range(nodes)),
        outputs=tuple(described.names.output(at) for at in range(len(layers[-1].groups))),
        layers=tuple(layers),
    )


def ends(described: Description, layer: int, source: int, destination: int) -> tuple[str, str]:
    """Names of the source and the destination of an edge: a feature or class, x0 or y0 without names, or a node."""
    hidden = layer or described.family == HYBRID
    first = f"node {source}" if hidden else described.names.feature(columns(described.layers[0])[source])
    moved = any(step.kind in ("select", "product") for step in described.layers[layer].post_steps)
    if layer < len(described.layers) - 1 or moved or described.family == HYBRID:
        return first, f"node {destination}"
    return first, described.names.output(destination)


def kinds(layer: LayerInfo) -> tuple[Flags, Flags]:
    """Which edges are symbolic, and which numeric, [S, D] each."""
    shape = layer.sources, layer.destinations
    symbolic = np.zeros(shape, bool)
    for formula_edge in layer.symbolic:
        symbolic[formula_edge.source, formula_edge.destination] |= formula_edge.mask != 0
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


def knot_positions(layer: LayerInfo, source: int) -> list[float]:
    """The grid knots of a source, in the units of its node."""
    read = grids.sources(layer)
    if read is None or source >= len(read):
        return []
    rows = [basis.knots for basis in layer.bases if basis.knots and not basis.pre_steps]
    return [knot for row in rows for knot in read[source].in_node_units(row[source if len(row) > 1 else 0])]


def columns(layer: LayerInfo) -> tuple[int, ...]:
    """The input node of each source of a layer."""
    chosen = [step.indices for step in layer.pre_steps if step.kind == "select"]
    return chosen[0] if chosen else tuple(range(layer.sources))


def plain(report: Report) -> dict[str, Any]:
    """The report as dicts, lists, strings and numbers."""
    parts: list[dict[str, Any]] = []
    for part in report.parts:
        values = {item.name: getattr(part, item.name) for item in fields(part)}
        if isinstance(part, Pictures):
            values["pictures"] = [{"title": scene.title, "svg": render.text(scene)} for scene in values.pop("scenes")]
        parts.append({"kind": type(part).__name__.lower(), **values})
    return {"title": report.title, "lead": report.lead, "parts": parts, "footer": report.footer}
