"""`kanserve drift NAME`: whether data are still what they were."""

from __future__ import annotations

import argparse
from typing import Any

from kanexport.shared.output import print_json
from kanexport.shared.voice import Exit
from kanserve.console import drift_table, read_rows, remote
from kanserve.console.common import add_client_options, add_model_options, add_row_options, index

TEXT = """Say whether what a model is asked is still what it was made for: its inputs, the nodes inside and
its answers, beside what they were on the rows that the export was given (kanserve export --reference).

A node has drifted where its values moved by more than chance explains for so many rows.
"""
EXAMPLES = """examples:
  kanserve drift wine
  kanserve drift wine --input today.csv
  kanserve drift wine --input today.csv --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser)
    add_row_options(parser, "the latest rows of the model's traffic")
    parser.add_argument("--show", type=index, default=20, metavar="N", help="nodes in the table (20)")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    given = read_rows.contents(args.input) if args.input else None
    with remote.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows: Any = None
        if given is not None:
            rows = read_rows.rows_for_all(described.inputs, given, array=args.array, names=described.names)
        found = client.drift(described, rows)
    if args.json:
        print_json(drift_table.document(described, found))
    else:
        drift_table.table(described, found, args.show).show()
    return Exit.DONE
