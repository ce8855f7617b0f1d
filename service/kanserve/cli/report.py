"""Command `kanserve report NAME -o report.html`: report on a served KAN as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kanexport.contract import atomic
from kanexport.contract.cli.console import Exit, note, print_json
from kanserve.cli import input_rows, output_results, plot, session
from kanserve.cli.options import CommandError, add_client_options, add_model_options, add_row_options
from kanserve.report import content, page, selection

TEXT = """Write what a served KAN is, how it looks inside, and what its export was held against, as one
HTML file without anything from elsewhere.
"""
EXAMPLES = """examples:
  kanserve report digits -o digits.html
  kanserve report digits -o digits.html --input train.csv     which edges matter over these rows
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser, "rows drawn from the grid")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.html", help="the report")
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
        raise CommandError(f"{args.output} cannot be written: {error.strerror}", exit_code=Exit.FAILED) from error
    if args.json:
        print_json({"model": described.name, "version": described.version, "output": args.output, "bytes": len(text)})
    else:
        note(f"{args.output}: {described.name} version {described.version}")
    return Exit.DONE
