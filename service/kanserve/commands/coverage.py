"""`kanserve coverage NAME --input rows.csv`: where rows are on the grids of a model."""

from __future__ import annotations

import argparse
from typing import Any

from kanexport.shared import progress
from kanexport.shared.output import note, print_json
from kanexport.shared.voice import Exit
from kanserve.client import bulk
from kanserve.client.coverage import Coverage
from kanserve.client.description import Description
from kanserve.console import coverage_table, read_rows, remote, results
from kanserve.console.common import add_client_options, add_model_options, add_row_options, index

TEXT = """Say whether rows lie where a model was made for: on its grids, beside them, or outside.

Of every layer the nodes that it is given are looked at: for each row whether each is inside its grid, in the
extension of the grid, or outside, and by how many cells. What has no grid is held against the rows that the
export was given (--reference), and the table says which it was.
"""
EXAMPLES = """examples:
  kanserve coverage digits --input rows.csv
  kanserve coverage digits --input rows.csv --json
  kanserve coverage digits --input rows.npy --output coverage.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser)
    parser.add_argument("--show", type=index, default=12, metavar="N", help="nodes in the table (12)")
    parser.add_argument(
        "--output",
        metavar="FILE.npz",
        help="write counts (rows, layers, 3), worst and cells (rows, layers), and the zone of every node, zones_0, "
        "zones_1 and so on: 0 unknown, 1 inside, 2 extension, 3 outside",
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    results.check(args.output, (".npz",))
    given = read_rows.contents(args.input)
    with remote.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows: Any = read_rows.rows_for_all(described.inputs, given, array=args.array, names=described.names)
        with progress.bar("coverage", unit="rows", at_once=False) as report:
            found = bulk.coverage(client, described, rows, progress=report)
    if args.output:
        results.write(args.output, coverage_table.arrays(found))
    _print(args, described, found)
    return Exit.DONE


def _print(args: argparse.Namespace, described: Description, found: Coverage) -> None:
    arrays = coverage_table.arrays(found)
    if args.json:
        small = {name: arrays[name].tolist() for name in ("counts", "worst", "cells")}
        what = {"output": args.output, "shapes": results.shapes(arrays)} if args.output else small
        print_json({**coverage_table.document(described, found), **what})
    elif args.output:
        note(results.summary(args.output, arrays))
    else:
        coverage_table.layers(described, found).show()
        if (found.cells > 0).any():
            coverage_table.beyond(described, found, args.show).show()
