"""`kanserve plot NAME -o net.svg`: the network, or one edge of it, as a picture."""

from __future__ import annotations

import argparse
from typing import Any

from kanexport.shared.output import note, print_json, say
from kanexport.shared.voice import Exit
from kanserve.client.connection import Client
from kanserve.client.description import Description
from kanserve.console import picture_file, read_rows, remote, results, selection
from kanserve.console.common import InputError, add_client_options, add_model_options, add_row_options
from kanserve.pictures import braille
from kanserve.pictures.scene import Scene
from kanserve.portrait import asked, contents

COLUMNS = 100  # characters on a terminal
LARGE = 257  # points of one curve
TEXT = """Draw a served KAN.

The whole network as pykan draws it: inputs at the bottom, each edge with its curve, the more
opaque the more it matters (pykan's scores, over --input, else over rows drawn from the grid),
black where it is numeric, red where symbolic. A large network is a field of colours a layer.
With --layer, --source and --destination one edge, large. Without -o it is drawn in characters.
"""
EXAMPLES = """examples:
  kanserve plot digits -o digits.svg --input train.csv
  kanserve plot digits
  kanserve plot digits --layer 0 --source 3 --destination 7 -o edge.png
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser, "rows drawn from the grid")
    selection.add_options(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="the picture, .svg or .png")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    results.check(args.output, picture_file.SUFFIXES)
    if args.json and not args.output:
        raise InputError("--json says what was written where: give -o FILE as well")
    with remote.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        scene = _edge(args, client, described) if args.layer else _network(args, client, described)
    if not args.output:
        for line in braille.lines(scene, COLUMNS):
            say(line)
        return Exit.DONE
    picture_file.write(args.output, scene)
    if args.json:
        print_json({"model": described.name, "version": described.version, "output": args.output})
    else:
        note(f"{args.output}: {scene.title}")
    return Exit.DONE


def _network(args: argparse.Namespace, client: Client, described: Description) -> Scene:
    if args.source or args.destination:
        raise InputError("--source and --destination go with --layer: together they name an edge")
    rows: Any = None
    if args.input:
        given = read_rows.contents(args.input)
        rows = read_rows.rows_for_all(described.inputs, given, array=args.array, names=described.names)
    return contents.drawn(asked.curves(client, described), described, client.scores(described, rows))


def _edge(args: argparse.Namespace, client: Client, described: Description) -> Scene:
    chosen = selection.edges(described, args)
    if not (len(chosen.layers) == len(chosen.sources) == len(chosen.destinations) == 1):
        raise InputError("one edge is drawn: give one --layer, one --source and one --destination, or none of them")
    (found,) = client.curves(
        described.name,
        described.version,
        layers=chosen.layers,
        sources=chosen.sources,
        destinations=chosen.destinations,
        points=LARGE,
    )
    return contents.one_edge(described, found)
