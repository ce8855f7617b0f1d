"""`kanserve curves NAME`: what every edge gives, whatever its source is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from kanexport.shared.output import note, print_json, say
from kanexport.shared.voice import Exit
from kanserve.client.curves import LayerCurves
from kanserve.client.description import Description
from kanserve.console import curve_table, remote, results, selection
from kanserve.console.common import InputError, add_client_options, add_model_options, index

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
    selection.add_options(parser)
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
    results.check(args.output, (".npz",))
    if args.points == 1:
        raise InputError("--points 1: a curve has 2 points or more")
    with remote.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        chosen = selection.edges(described, args)
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
    found = curve_table.curves(described, layers)
    if args.output:
        _write(args, described, layers, found)
    elif args.json:
        print_json(curve_table.document(described, found, args.show))
    elif len(found) == 1:
        for line in curve_table.picture(described, found[0]):
            say(line)
    else:
        curve_table.table(described, found, args.show).show()
    return Exit.DONE


def _write(
    args: argparse.Namespace,
    described: Description,
    layers: Sequence[LayerCurves],
    found: Sequence[curve_table.Curve],
) -> None:
    arrays = dict(_one(found[0]) if len(found) == 1 else _several(layers))
    results.write(args.output, arrays)
    if args.json:
        asked = curve_table.document(described, found, 0)
        del asked["curves"]
        print_json({**asked, "output": args.output, "shapes": results.shapes(arrays)})
    else:
        note(results.summary(args.output, arrays))


def _one(curve: curve_table.Curve) -> Iterator[tuple[str, Any]]:
    yield from (("x", curve.x), ("phi", curve.phi))
    if curve.derivative is not None:
        yield "derivative", curve.derivative
    yield from ((f"phi_{kind}", values) for kind, values in curve.parts.items())


def _several(layers: Sequence[LayerCurves]) -> Iterator[tuple[str, Any]]:
    for layer in layers:
        for what in ("x", "phi", "derivative", "sources", "destinations"):
            values = getattr(layer, what)
            if values is not None:
                yield f"layer{layer.layer}_{what}", results.array(values)
        yield from ((f"layer{layer.layer}_phi_{kind}", values) for kind, values in layer.parts.items())
