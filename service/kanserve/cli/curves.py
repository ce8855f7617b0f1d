"""Command `kanserve curves NAME`: the function of every edge over its source."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.shared.cli.console import Exit, print_json, say
from kanexport.shared.cli.tables import Table
from kanexport.shared.manifest import arrows
from kanserve.cli import edge_selection, session
from kanserve.cli.options import InputError, add_client_options, add_model_options, add_show_option, flag, index, option
from kanserve.plotting import characters
from kanserve.report import descriptions
from kanserve.tables import output_results
from kanserve.types import Description, LayerCurves

TEXT = """Plot the learned edge functions.

One edge is a large plot, and several edges are a table. The range of a curve is the grid of its edge, up to the
outermost knots. Without a grid, it is the range of the source node on the reference rows of the export, otherwise an
assumed range. The table shows which. An edge that depends on other nodes of its row (class B) has no curve.
"""
EXAMPLES = """examples:
  kanserve curves digits
  kanserve curves digits --edge 0:3:7
  kanserve curves digits --layer 1 --derivative --output curves.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser, files=True)
    edge_selection.add_options(parser)
    option(parser, "--points", "N", "number of points of each curve, 2 to 1024; 0: 101 points", 0, type=index)
    text = "range of the input values of all curves"
    option(parser, "--range", ("LOW", "HIGH"), text, type=float, nargs=2, shown="the range of each edge")
    flag(parser, "--derivative", "add the derivative to --output and --json")
    flag(parser, "--parts", "add the part of each basis to --output and --json")
    text = (
        "write arrays to this file; one edge: x and phi, float (points); several edges: layer{l}_x (sources, "
        "points), layer{l}_phi (sources, destinations, points), layer{l}_sources and layer{l}_destinations"
    )
    option(parser, "--output", "FILE.npz", text, shown="print a plot or a table")
    add_show_option(parser, 20, "edges")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    if args.points == 1:
        raise InputError(
            "--points 1: too few points, expected 2 to 1024", code="curve-points-out-of-range", hint="pass --points 101"
        )
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        chosen = edge_selection.edges(described, args)
        layers = client.curves(
            described.name,
            described.version,
            layers=chosen.layers,
            sources=chosen.sources,
            destinations=chosen.destinations,
            points=args.points,
            span=tuple(args.range) if args.range else None,
            derivative=args.derivative,
            parts=args.parts,
        )
    edge_curves = curves(described, layers)
    if args.output:
        facts = document(described, edge_curves, 0)
        del facts["curves"]
        if len(edge_curves) == 1:
            (curve,) = edge_curves
            arrays = {"x": curve.x, "phi": curve.phi, "derivative": curve.derivative}
            arrays |= {f"phi_{kind}": values for kind, values in curve.parts.items()}
        else:
            arrays = {}
            for layer in layers:
                for what in ("x", "phi", "derivative", "sources", "destinations"):
                    arrays[f"layer{layer.layer}_{what}"] = getattr(layer, what)
                arrays |= {f"layer{layer.layer}_phi_{kind}": values for kind, values in layer.parts.items()}
        output_results.finish(
            args, {name: np.asarray(values) for name, values in arrays.items() if values is not None}, facts
        )
    elif args.json:
        print_json(document(described, edge_curves, args.show))
    elif len(edge_curves) == 1:
        for line in picture(described, edge_curves[0]):
            say(line)
    else:
        table(described, edge_curves, args.show).show()
    return Exit.DONE


WIDTH, HEIGHT = 64, 12  # characters of a picture
BARS = 24  # characters of a curve in a table
DOMAINS = {
    "requested": "the range that you passed",
    "grid": "the grid, up to the outermost knots and 2% more",
    "reference": "the range on the export's reference rows, and 10% more on either side",
    "assumed": "an assumed range, because the range of the values is unknown",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """Curve of one edge.

    x    [N], the points
    phi  [N], the values; NaN where nothing is finite
    """

    layer: int
    source: int
    destination: int
    x: Any
    phi: Any
    derivative: Any
    domain: str
    symbolic: str
    parts: Mapping[str, Any]

    @property
    def spread(self) -> float:
        """Difference between the largest and the smallest value; infinite if a value is not finite."""
        return float(np.ptp(self.phi.astype(np.float64))) if np.isfinite(self.phi).all() else np.inf

    def extreme(self, which: Any) -> tuple[float, float]:
        """(x, phi) of the smallest or largest finite value: `np.nanargmin` or `np.nanargmax`."""
        finite = np.where(np.isfinite(self.phi), self.phi, np.nan)
        if np.isnan(finite).all():
            return np.nan, np.nan
        at = which(finite)
        return float(self.x[at]), float(self.phi[at])


def curves(described: Description, layers: Sequence[LayerCurves]) -> list[Curve]:
    """Every edge. The edge with the largest spread is first."""
    edge_curves = []
    for layer in layers:
        symbolic = {(edge.source, edge.destination): edge.function for edge in described.layers[layer.layer].symbolic}
        for row, source in enumerate(layer.sources):
            for column, destination in enumerate(layer.destinations):
                curve = Curve(
                    layer.layer,
                    source,
                    destination,
                    layer.x[row],
                    layer.phi[row, column],
                    None if layer.derivative is None else layer.derivative[row, column],
                    layer.domains[row],
                    symbolic.get((source, destination), ""),
                    {kind: values[row, column] for kind, values in layer.parts.items()},
                )
                edge_curves.append(curve)
    return sorted(edge_curves, key=lambda curve: (-curve.spread, curve.layer, curve.source, curve.destination))


def document(described: Description, edge_curves: Sequence[Curve], shown: int) -> dict[str, Any]:
    """JSON document: the model, and the first of the curves in numbers."""
    entries = []
    for curve in edge_curves[:shown]:
        (least_at, least), (most_at, most) = curve.extreme(np.nanargmin), curve.extreme(np.nanargmax)
        entry = {
            "layer": curve.layer,
            "source": curve.source,
            "source_name": described.source(curve.layer, curve.source),
            "destination": curve.destination,
            "destination_name": described.destination(curve.layer, curve.destination),
            "symbolic": curve.symbolic,
            "domain": curve.domain,
            "minimum_at": least_at,
            "minimum": least,
            "maximum_at": most_at,
            "maximum": most,
            "x": curve.x.tolist(),
            "phi": curve.phi.tolist(),
        }
        if curve.derivative is not None:
            entry["derivative"] = curve.derivative.tolist()
        entries.append(entry | {f"phi_{kind}": values.tolist() for kind, values in curve.parts.items()})
    return {
        **descriptions.identity(described),
        "edges": len(edge_curves),
        "curves": entries,
    }


def table(described: Description, edge_curves: Sequence[Curve], shown: int) -> Table:
    """Table with one row per edge."""
    rows = Table(
        f"{described.name} version {described.version}: {described.family}, {arrows(described.shapes)}",
        ("edge", "from", "curve of φ", "to", "min φ", "at", "max φ", "at ", "symbolic"),
        numbers=("from", "min φ", "at", "max φ", "at "),
        caption=(
            f"{min(shown, len(edge_curves))} of {len(edge_curves)} edges, by spread of φ",
            *(
                f"{domain}: {DOMAINS[domain]}"
                for domain in dict.fromkeys(curve.domain for curve in edge_curves[:shown])
            ),
            *descriptions.scaled_edges(described, {curve.layer for curve in edge_curves[:shown]}),
        ),
    )
    for curve in edge_curves[:shown]:
        (least_at, least), (most_at, most) = curve.extreme(np.nanargmin), curve.extreme(np.nanargmax)
        x = descriptions.place(curve.x[0], curve.x[-1])
        numbers = f"{least:.4g}", x(least_at), f"{most:.4g}", x(most_at)
        ends = x(curve.x[0]), f"{x(curve.x[-1])} ({curve.domain})"
        edge = descriptions.edge_name(described, curve.layer, curve.source, curve.destination)
        rows.add(edge, ends[0], characters.line(curve.phi, BARS), ends[1], *numbers, curve.symbolic)
    return rows


def picture(described: Description, curve: Curve) -> list[str]:
    """Lines of a large text plot of one edge."""
    (_, least), (_, most) = curve.extreme(np.nanargmin), curve.extreme(np.nanargmax)
    lines = characters.picture(curve.phi, WIDTH, HEIGHT)
    marks = [f"{most:.4g}", *[""] * (len(lines) - 2), f"{least:.4g}"]
    room = max(map(len, marks))
    edge = descriptions.edge_name(described, curve.layer, curve.source, curve.destination)
    ends = tuple(map(descriptions.place(curve.x[0], curve.x[-1]), (curve.x[0], curve.x[-1])))
    return [
        f"{described.name} version {described.version}, edge {edge}" + (f", {curve.symbolic}" * bool(curve.symbolic)),
        *(f"{mark:>{room}} ┤{line}" for mark, line in zip(marks, lines, strict=True)),
        " " * room + " └" + "─" * WIDTH,
        " " * (room + 2) + ends[0] + ends[1].rjust(WIDTH - len(ends[0])),
        f"x from {ends[0]} to {ends[1]}: {DOMAINS[curve.domain]}",
        *descriptions.scaled_edges(described, {curve.layer}),
    ]
