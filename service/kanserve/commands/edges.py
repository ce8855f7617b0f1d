"""`kanserve edges NAME --input rows.npy`: what every edge of the network did with rows."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from kanexport.shared import progress
from kanexport.shared.output import note, print_json
from kanexport.shared.voice import Exit
from kanserve.client import bulk, bulk_edges
from kanserve.client.answers import LayerValues
from kanserve.client.description import Description
from kanserve.console import edge_facts, edge_table, read_rows, remote, results, selection
from kanserve.console.common import InputError, add_client_options, add_model_options, add_row_options, index

TEXT = """Ask what every edge did with rows.

The table holds the strongest edges, by the mean magnitude of their values phi over all
rows (and positions). Between min and max it shows how those values are distributed: the
range is cut into 16 equal parts, and a bar's height is the number of values in its part.
It says which values occur, not how phi depends on its input.
"""
EXAMPLES = """examples:
  kanserve edges digits --input rows.npy --top-k 5
  kanserve edges digits --input rows.npy --layer 0 --output edges.npz
  kanserve edges digits --input rows.npy --layer 1 --source 0 --destination 2 --json
  kanserve edges iris --input rows.csv --path "petal width" virginica
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser)
    selection.add_options(parser)
    parser.add_argument(
        "--top-k", type=index, default=0, metavar="K", help="per layer, the K edges of largest magnitude"
    )
    parser.add_argument(
        "--path",
        nargs=2,
        metavar=("INPUT", "OUTPUT"),
        help="only edges on the ways from this input to this output, by name or index",
    )
    parser.add_argument(
        "--output",
        metavar="FILE.npz",
        help="write layer{l}_edges, float32 (rows, *positions, source, destination); with --top-k "
        "(rows, *positions, k); with a selection also layer{l}_sources and layer{l}_destinations. "
        "Without it: a table of the strongest",
    )
    parser.add_argument("--show", type=index, default=20, metavar="N", help="edges in the table (20)")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    results.check(args.output, (".npz",))
    given = read_rows.contents(args.input)
    with remote.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows = read_rows.rows_for_all(described.inputs, given, array=args.array, names=described.names)
        chosen, path = selection.edges(described, args), _path(args, described)
        with progress.bar("edges", unit="rows", at_once=False) as report:
            answers = bulk_edges.edges(
                client,
                described,
                rows,
                layers=chosen.layers,
                sources=chosen.sources,
                destinations=chosen.destinations,
                path=path,
                top_k=args.top_k,
                progress=report,
            )
            if args.output:
                layers = list(answers)
            else:
                survey = edge_facts.survey(described, answers, most=args.show)
    if args.output:
        _write(args, described, layers)
    elif args.json:
        asked = edge_table.document(described, survey.layers, bulk.count(rows))
        print_json({**asked, "edges": edge_table.strongest(described, survey)})
    else:
        edge_table.table(described, survey, bulk.count(rows)).show()
    return Exit.DONE


def _path(args: argparse.Namespace, described: Description) -> tuple[int, int] | None:
    """Raises InputError."""
    if args.path is None:
        return None
    if args.source or args.destination:
        raise InputError("--path has its own sources and destinations; name layers beside it, or leave it out")
    start, end = args.path
    return selection.feature(described, "--path", start), selection.output(described, "--path", end)


def _write(args: argparse.Namespace, described: Description, layers: list[LayerValues]) -> None:
    """The file of edges, and what it holds to stderr, or to stdout as JSON."""
    arrays = dict(_arrays(layers, selected=bool(args.source or args.destination or args.path or args.top_k)))
    results.write(args.output, arrays)
    if args.json:
        row_count = len(layers[0].values) if layers else 0
        asked = edge_table.document(described, [layer.layer for layer in layers], row_count)
        print_json({**asked, "output": args.output, "shapes": results.shapes(arrays)})
    else:
        note(results.summary(args.output, arrays))


def _arrays(layers: list[LayerValues], *, selected: bool) -> Iterable[tuple[str, Any]]:
    """The arrays of the file by name; of a selection, which nodes it holds too."""
    for layer in layers:
        yield f"layer{layer.layer}_edges", layer.values
        if selected:
            yield f"layer{layer.layer}_sources", layer.sources
            yield f"layer{layer.layer}_destinations", layer.destinations
