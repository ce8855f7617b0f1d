"""`kanserve curves NAME`: what every edge gives, whatever its source is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.contract.cli.console import Exit, note, print_json, say
from kanexport.contract.cli.tables import Table
from kanexport.contract.manifest import arrows
from kanserve.cli import edge_selection, output_results, session
from kanserve.cli.options import InputError, add_client_options, add_model_options, index
from kanserve.report import text_tables
from kanserve.types import Description, LayerCurves

TEXT = """Show the functions on the edges.

Each curve goes over the values of its source: over its grid, where the edge has one, to the
outermost knots; else over what the source was on the reference rows of the export; else, as
the table says, over an assumed range. One edge is drawn large, several are a table. An edge that depends on the other
nodes of its row too (class B) has no curve.
"""
EXAMPLES = """examples:
  kanserve curves digits
  kanserve curves digits --layer 0 --source 3 --destination 7
  kanserve curves digits --layer 1 --output curves.npz --derivative
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    edge_selection.add_options(parser)
    parser.add_argument("--points", type=index, default=0, metavar="N", help="of each curve, 2 to 1024 (101)")
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="over these values, instead of each its own"
    )
    parser.add_argument("--derivative", action="store_true", help="the slope too, in --output and --json")
    parser.add_argument("--parts", action="store_true", help="what each basis has of phi too, in --output and --json")
    parser.add_argument(
        "--output",
        metavar="FILE.npz",
        help="write x and phi of one edge, float (points); of several layer{l}_x (sources, points), layer{l}_phi "
        "(sources, destinations, points), layer{l}_sources and layer{l}_destinations",
    )
    parser.add_argument("--show", type=index, default=20, metavar="N", help="edges in the table (20)")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    if args.points == 1:
        raise InputError("--points 1: a curve has 2 points or more")
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
    found = curves(described, layers)
    if args.output:
        _write(args, described, layers, found)
    elif args.json:
        print_json(document(described, found, args.show))
    elif len(found) == 1:
        for line in picture(described, found[0]):
            say(line)
    else:
        table(described, found, args.show).show()
    return Exit.DONE


def _write(
    args: argparse.Namespace,
    described: Description,
    layers: Sequence[LayerCurves],
    found: Sequence[Curve],
) -> None:
    arrays = dict(_one(found[0]) if len(found) == 1 else _several(layers))
    output_results.write(args.output, arrays)
    if args.json:
        asked = document(described, found, 0)
        del asked["curves"]
        print_json({**asked, "output": args.output, "shapes": output_results.shapes(arrays)})
    else:
        note(output_results.summary(args.output, arrays))


def _one(curve: Curve) -> Iterator[tuple[str, Any]]:
    yield from (("x", curve.x), ("phi", curve.phi))
    if curve.derivative is not None:
        yield "derivative", curve.derivative
    yield from ((f"phi_{kind}", values) for kind, values in curve.parts.items())


def _several(layers: Sequence[LayerCurves]) -> Iterator[tuple[str, Any]]:
    for layer in layers:
        for what in ("x", "phi", "derivative", "sources", "destinations"):
            values = getattr(layer, what)
            if values is not None:
                yield f"layer{layer.layer}_{what}", output_results.array(values)
        yield from ((f"layer{layer.layer}_phi_{kind}", values) for kind, values in layer.parts.items())


WIDTH, HEIGHT = 64, 12  # characters of a picture
BARS = 24  # characters of a curve in a table
DOMAINS = {
    "requested": "as requested",
    "grid": "its grid, to the outermost knots and 2 % more",
    "reference": "what it was on the export's reference rows, and a tenth more on either side",
    "assumed": "assumed: nothing tells what its values are",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One edge: `phi` [N] over `x` [N], its extremes on these points, and where they are; NaN where nothing is
    finite."""

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
        """How far apart its extremes are; infinite where it has a value that is not finite."""
        return float(np.ptp(self.phi.astype(np.float64))) if np.isfinite(self.phi).all() else np.inf

    def extreme(self, which: Any) -> tuple[float, float]:
        """(x, phi) of the smallest or largest finite value: `np.nanargmin` or `np.nanargmax`."""
        finite = np.where(np.isfinite(self.phi), self.phi, np.nan)
        if np.isnan(finite).all():
            return np.nan, np.nan
        at = which(finite)
        return float(self.x[at]), float(self.phi[at])


def curves(described: Description, layers: Sequence[LayerCurves]) -> list[Curve]:
    """Every edge, those first that move most."""
    found = [curve for layer in layers for curve in _curves(described, layer)]
    return sorted(found, key=lambda one: (-one.spread, one.layer, one.source, one.destination))


def _curves(described: Description, layer: LayerCurves) -> Iterator[Curve]:
    symbolic = {(edge.source, edge.destination): edge.function for edge in described.layers[layer.layer].symbolic}
    for row, source in enumerate(layer.sources):
        for column, destination in enumerate(layer.destinations):
            yield Curve(
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


def document(described: Description, found: Sequence[Curve], shown: int) -> dict[str, Any]:
    """For JSON: the model, and the first of the curves in numbers."""
    return {
        "model": described.name,
        "version": described.version,
        "digest": described.digest,
        "edges": len(found),
        "curves": [_numbers(described, one) for one in found[:shown]],
    }


def _numbers(described: Description, one: Curve) -> dict[str, Any]:
    numbers = {
        "layer": one.layer,
        "source": one.source,
        "source_name": described.source(one.layer, one.source),
        "destination": one.destination,
        "destination_name": described.destination(one.layer, one.destination),
        "symbolic": one.symbolic,
        "domain": one.domain,
        "minimum_at": one.extreme(np.nanargmin)[0],
        "minimum": one.extreme(np.nanargmin)[1],
        "maximum_at": one.extreme(np.nanargmax)[0],
        "maximum": one.extreme(np.nanargmax)[1],
        "x": one.x.tolist(),
        "phi": one.phi.tolist(),
    }
    more = {} if one.derivative is None else {"derivative": one.derivative.tolist()}
    return {**numbers, **more, **{f"phi_{kind}": values.tolist() for kind, values in one.parts.items()}}


def table(described: Description, found: Sequence[Curve], shown: int) -> Table:
    """One edge a row."""
    rows = Table(
        f"{described.name} version {described.version}: {described.family}, {arrows(described.shapes)}",
        ("edge", "from", "curve of φ", "to", "φ least", "at", "φ most", "at ", "symbolic"),
        numbers=("from", "φ least", "at", "φ most", "at "),
        caption=(
            f"{min(shown, len(found))} of {len(found)} edges, those first whose φ moves most",
            *(f"{domain}: {DOMAINS[domain]}" for domain in dict.fromkeys(one.domain for one in found[:shown])),
        ),
    )
    for one in found[:shown]:
        (least_at, least), (most_at, most) = one.extreme(np.nanargmin), one.extreme(np.nanargmax)
        numbers = (f"{number:.4g}" for number in (least, least_at, most, most_at))
        ends = f"{one.x[0]:.4g}", f"{one.x[-1]:.4g} ({one.domain})"
        rows.add(name(described, one), ends[0], text_tables.line(one.phi, BARS), ends[1], *numbers, one.symbolic)
    return rows


def name(described: Description, one: Curve) -> str:
    """Such as "0: alcohol → 3"."""
    source, destination = (
        described.source(one.layer, one.source),
        described.destination(one.layer, one.destination),
    )
    return f"{one.layer}: {source} → {destination}"


def picture(described: Description, one: Curve) -> list[str]:
    """One edge, large."""
    (_, least), (_, most) = one.extreme(np.nanargmin), one.extreme(np.nanargmax)
    lines = text_tables.picture(one.phi, WIDTH, HEIGHT)
    marks = [f"{most:.4g}", *[""] * (len(lines) - 2), f"{least:.4g}"]
    room = max(map(len, marks))
    ends = f"{one.x[0]:.4g}", f"{one.x[-1]:.4g}"
    return [
        f"{described.name} version {described.version}, edge {name(described, one)}"
        + (f" ({one.symbolic})" if one.symbolic else ""),
        *(f"{mark:>{room}} ┤{line}" for mark, line in zip(marks, lines, strict=True)),
        " " * room + " └" + "─" * WIDTH,
        " " * (room + 2) + ends[0] + ends[1].rjust(WIDTH - len(ends[0])),
        f"x from {ends[0]} to {ends[1]}: {DOMAINS[one.domain]}",
    ]
