"""`kanserve infer NAME --input rows.npy`: rows in, outputs out."""

from __future__ import annotations

import argparse

from kanexport.shared import progress
from kanexport.shared.output import emit, note, print_json
from kanexport.shared.voice import Exit
from kanserve.client import bulk
from kanserve.client.answers import Answer
from kanserve.console import read_rows, remote, results
from kanserve.console.common import add_client_options, add_model_options, add_row_options

EXAMPLES = """examples:
  kanserve infer digits --input rows.npy                    CSV on stdout
  kanserve infer digits --input rows.csv --output y.npz
  head -3 rows.csv | kanserve infer digits --input - --json
  kanserve infer text --input rows.npz                      several inputs: one array for each, by its name
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser)
    parser.add_argument("--output", metavar="FILE", help=".npz, .npy, .csv or .json; without it: CSV on stdout")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    results.check(args.output)
    given = read_rows.contents(args.input)
    with remote.connection(args, model=args.name) as client:
        model = client.model(args.name, args.model_version)
        results.check_count(args.output, tuple(output.name for output in model.outputs))
        rows = read_rows.rows_for_all(model.inputs, given, array=args.array, names=model.names)
        with progress.bar("infer", unit="rows", at_once=False) as report:
            answer = bulk.infer(client, model, rows, version=args.model_version, progress=report)
    if args.output:
        results.write(args.output, answer.outputs, answer.columns())
    _print(args, answer, bulk.count(rows))
    return Exit.DONE


def _print(args: argparse.Namespace, answer: Answer, row_count: int) -> None:
    """One document, or what was written where, or the outputs as CSV."""
    if args.json:
        what = (
            {"output": args.output, "shapes": results.shapes(answer.outputs)}
            if args.output
            else {"outputs": {name: output.tolist() for name, output in answer.outputs.items()}}
        )
        print_json({"model": args.name, "version": answer.version, "rows": row_count, **what})
    elif args.output:
        note(results.summary(args.output, answer.outputs))
    else:
        columns = answer.columns()
        for name, output in answer.outputs.items():
            emit(results.csv_text(output, columns[name]))
