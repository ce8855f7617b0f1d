"""Command `kanserve report NAME -o report.html`: model card of a served KAN as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kanexport.contract import atomic
from kanexport.contract.cli.console import Exit, note, print_json
from kanserve.cli import input_rows, output_results, plot, session
from kanserve.cli.options import add_client_options, add_model_options, add_row_options
from kanserve.report import content, page, selection

TEXT = """Write an HTML model card: description, verification, network, input importance and edge curves of a model.

The card is one file without external resources.
"""
EXAMPLES = """examples:
  kanserve report digits -o digits.html
  kanserve report digits --input examples/digits.csv -o digits.html
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser, "the synthetic verification rows of the export")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.html", help="write the model card to this file")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".html",))
    source = input_rows.contents(args.input) if args.input else None
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows: Any = None
        if source is not None:
            rows = input_rows.rows_for_all(described.inputs, source, array=args.array, names=described.names)
        plan = selection.plan(described, client.scores(described, rows))
        curves = {request: plot.curves(client, request) for request in plan.requests}
    text = page.html(content.report(plan, curves))
    try:
        atomic.write(Path(args.output), text.encode())
    except OSError as error:
        raise output_results.not_written(args.output, error) from error
    if args.json:
        print_json({"model": described.name, "version": described.version, "output": args.output, "bytes": len(text)})
    else:
        note(f"{args.output}: {described.name} version {described.version}")
    return Exit.DONE
