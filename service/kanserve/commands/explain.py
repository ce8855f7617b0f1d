"""`kanserve explain NAME --input rows.npy`: why the predictions came out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanexport.shared import progress
from kanexport.shared.nearest import closest
from kanexport.shared.output import note, print_json
from kanexport.shared.voice import Exit
from kanserve.client import bulk
from kanserve.client.description import Description
from kanserve.client.explain import Explanation
from kanserve.console import explanation, read_rows, remote, results, selection
from kanserve.console.common import InputError, add_client_options, add_model_options, add_row_options, index

CHOICES = ("mean", "zeros", "grid_center")
TEXT = """Say what each input of a row has to do with the answer.

The difference between a row's answer and the answer for a reference row is given to the inputs,
edge by edge and layer by layer, so that the contributions add up to it; the remainder is told.
A contribution says what an input did to this answer of this model, compared with the reference.
It does not say what would happen in the world, if the input were another.
"""
EXAMPLES = """examples:
  kanserve explain digits --input rows.csv --row 0
  kanserve explain digits --input rows.csv --of y3 --reference train.csv
  kanserve explain digits --input rows.npy --output explained.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser)
    parser.add_argument(
        "--of",
        action="append",
        default=[],
        metavar="OUTPUT",
        help="only this output, by name or number (may be repeated)",
    )
    parser.add_argument(
        "--reference",
        default="",
        metavar="REF",
        help="what rows are compared with: mean (of the rows that the export was given), zeros, grid_center, or a file "
        "of rows, the mean over them (default: the first of these that the model has)",
    )
    parser.add_argument("--row", type=index, default=None, metavar="N", help="show one row, counted from 0")
    parser.add_argument(
        "--output",
        metavar="FILE.npz",
        help="write contributions (rows, inputs, outputs), base (outputs), predictions and completeness_error "
        "(rows, outputs), float64",
    )
    parser.add_argument(
        "--method",
        choices=("rescale", "gradient_x_input"),
        default="rescale",
        help="rescale: contributions that add up to the difference from the reference (usual); gradient_x_input: the "
        "slope at each row times its distance from the reference",
    )
    parser.add_argument("--show", type=index, default=12, metavar="N", help="inputs in the table (12)")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    results.check(args.output, (".npz",))
    given = read_rows.contents(args.input)
    with remote.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows = read_rows.rows_for_all(described.inputs, given, array=args.array, names=described.names)
        if args.row is not None and args.row >= bulk.count(rows):
            raise InputError(f"--row {args.row}: {args.input} has {bulk.count(rows)} rows, numbered from 0")
        rows = rows if args.row is None else rows[args.row : args.row + 1]
        with progress.bar("explain", unit="rows", at_once=False) as report:
            found = bulk.explain(
                client,
                described,
                rows,
                reference=_reference(args, described),
                outputs=tuple(dict.fromkeys(selection.output(described, "--of", text) for text in args.of)),
                method=args.method,
                progress=report,
            )
    if args.output:
        results.write(args.output, explanation.arrays(found))
    _print(args, described, rows, found)
    return Exit.DONE


def _print(args: argparse.Namespace, described: Description, rows: Any, found: Explanation) -> None:
    arrays = explanation.arrays(found)
    if args.json:
        what = (
            {"output": args.output, "shapes": results.shapes(arrays)}
            if args.output
            else {name: array.tolist() for name, array in arrays.items()}
        )
        print_json({**explanation.document(described, found), **what})
    elif args.output:
        note(results.summary(args.output, arrays))
        for line in found.notes:
            note(line)
    elif len(rows) == 1:
        which = range(len(found.outputs)) if args.of else [int(found.predictions[0].argmax())]
        for at in which:
            explanation.of_row(described, found, rows, args.row or 0, at, args.show).show()
    else:
        explanation.of_all(described, found, args.show).show()


def _reference(args: argparse.Namespace, described: Description) -> Any:
    """Its name, or its rows. Raises InputError."""
    if args.reference in ("", *CHOICES):
        return args.reference
    if not Path(args.reference).is_file():
        raise InputError(
            f"--reference {args.reference}: neither one of {', '.join(CHOICES)} nor a file of rows"
            + _hint(args.reference, CHOICES)
        )
    given = read_rows.contents(args.reference)
    return read_rows.rows_for_all(described.inputs, given, names=described.names)


def _hint(text: str, known: Sequence[str]) -> str:
    close = closest(text, known)
    return f"; did you mean {close!r}?" if close else ""
