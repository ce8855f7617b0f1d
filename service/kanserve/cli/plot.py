"""Command `kanserve plot NAME -o net.svg`: picture of the network or of one edge."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanexport.shared import atomic
from kanexport.shared.cli import suggest
from kanexport.shared.cli.console import Exit, note, print_json, say
from kanserve.cli import edge_selection, session
from kanserve.cli.options import InputError, add_client_options, add_model_options, add_row_options
from kanserve.client.errors import NotSupported
from kanserve.client.sync import Client
from kanserve.plotting import render
from kanserve.plotting.scenes import Scene
from kanserve.report import content
from kanserve.report.selection import on_network_request
from kanserve.tables import input_rows, output_results
from kanserve.types import CurveRequest, LayerCurves

COLUMNS = 100  # characters on a terminal
LARGE = 257  # points of one curve
TEXT = """Draw the network, or one edge with --edge.

The network has its inputs at the bottom, and each edge has its curve. Opacity shows the importance of an edge: pykan
attribution scores over --input, otherwise over synthetic rows. Numeric edges are black, symbolic edges are red. A
layer with many edges is a matrix of colors. Without -o, the command draws with characters.
"""
EXAMPLES = """examples:
  kanserve plot hello
  kanserve plot digits --input examples/digits.csv -o digits.svg
  kanserve plot digits --edge 0:3:7 -o edge.svg
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser, files=True)
    add_row_options(parser, "the counted baseline rows of the export, otherwise its synthetic verification rows")
    edge_selection.add_options(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the picture to this file, .svg or .png (default: characters)"
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, SUFFIXES)
    if args.json and not args.output:
        raise InputError("--json needs -o FILE", code="output-missing", hint="pass -o FILE.svg, or remove --json")
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        if args.edge or args.layer:
            chosen = edge_selection.edges(described, args)
            if not (len(chosen.layers) == len(chosen.sources) == len(chosen.destinations) == 1):
                raise InputError(
                    "--layer needs one --source and one --destination",
                    code="edge-incomplete",
                    hint="pass --edge LAYER:SOURCE:DESTINATION for one edge, or none of them for the network",
                )
            (curve,) = client.curves(
                described.name,
                described.version,
                layers=chosen.layers,
                sources=chosen.sources,
                destinations=chosen.destinations,
                points=LARGE,
            )
            scene = content.one_edge(described, curve)
        else:
            if args.source or args.destination:
                raise InputError(
                    "--source and --destination need --layer",
                    code="edge-incomplete",
                    hint="pass --edge LAYER:SOURCE:DESTINATION for one edge, or none of them for the network",
                )
            rows: Any = None
            if args.input:
                source = input_rows.contents(args.input)
                rows = input_rows.rows_for_all(described.inputs, source, array=args.array, names=described.names)
            scores = client.scores(described, rows, source="best" if rows is None else "")
            request = on_network_request(described)
            scene = content.drawn(described, scores, curves(client, request) if request is not None else ())
    if not args.output:
        for line in render.lines(scene, COLUMNS):
            say(line)
        return Exit.DONE
    write(args.output, scene)
    if args.json:
        print_json({"model": described.name, "version": described.version, "output": args.output})
    else:
        note(f"{args.output}: {scene.title}")
    return Exit.DONE


def curves(client: Client, request: CurveRequest) -> Sequence[LayerCurves]:
    """The response of the server to a request of a report."""
    try:
        return client.curves(
            request.model,
            request.version,
            layers=request.layers,
            sources=request.sources,
            destinations=request.destinations,
            points=request.points,
        )
    except NotSupported:  # an edge of class B has no curve
        return ()


SUFFIXES = (".svg", ".png")


def write(target: str, scene: Scene) -> None:
    """Write the picture to a file. Raises CommandError."""
    if Path(target).suffix.lower() == ".png":
        data: bytes = suggest.load("plot", "kanserve.plotting.render", "plot").data(scene)
    else:
        data = render.text(scene).encode()
    with output_results.writing(target):
        atomic.write(Path(target), data)
