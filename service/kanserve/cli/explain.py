"""Command `kanserve explain NAME --input rows.npy`: feature attributions of predictions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.contract.cli import tables
from kanexport.contract.cli.console import Exit, note, print_json
from kanexport.contract.cli.suggest import closest
from kanexport.contract.cli.tables import Table
from kanserve.cli import edge_selection, input_rows, output_results, session
from kanserve.cli.options import InputError, add_client_options, add_model_options, add_row_options, index
from kanserve.client import chunking
from kanserve.client.explanation import Explanation
from kanserve.report.text_tables import bar
from kanserve.types import Description

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
    output_results.check(args.output, (".npz",))
    source = input_rows.contents(args.input)
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows = input_rows.rows_for_all(described.inputs, source, array=args.array, names=described.names)
        if args.row is not None and args.row >= chunking.count(rows):
            raise InputError(f"--row {args.row}: {args.input} has {chunking.count(rows)} rows, numbered from 0")
        rows = rows if args.row is None else rows[args.row : args.row + 1]
        with tables.bar("explain", unit="rows", at_once=False) as report:
            explanation = chunking.explain(
                client,
                described,
                rows,
                reference=_reference(args, described),
                outputs=tuple(dict.fromkeys(edge_selection.output(described, "--of", text) for text in args.of)),
                method=args.method,
                progress=report,
            )
    if args.output:
        output_results.write(args.output, explanation_arrays(explanation))
    _print(args, described, rows, explanation)
    return Exit.DONE


def _print(args: argparse.Namespace, described: Description, rows: Any, explanation: Explanation) -> None:
    arrays = explanation_arrays(explanation)
    if args.json:
        what = (
            {"output": args.output, "shapes": output_results.shapes(arrays)}
            if args.output
            else {name: array.tolist() for name, array in arrays.items()}
        )
        print_json({**document(described, explanation), **what})
    elif args.output:
        note(output_results.summary(args.output, arrays))
        for line in explanation.notes:
            note(line)
    elif len(rows) == 1:
        which = range(len(explanation.outputs)) if args.of else [int(explanation.predictions[0].argmax())]
        for at in which:
            of_row(described, explanation, rows, args.row or 0, at, args.show).show()
    else:
        of_all(described, explanation, args.show).show()


def _reference(args: argparse.Namespace, described: Description) -> Any:
    """Reference by its name, or as rows. Raises InputError."""
    if args.reference in ("", *CHOICES):
        return args.reference
    if not Path(args.reference).is_file():
        raise InputError(
            f"--reference {args.reference}: neither one of {', '.join(CHOICES)} nor a file of rows"
            + _hint(args.reference, CHOICES)
        )
    source = input_rows.contents(args.reference)
    return input_rows.rows_for_all(described.inputs, source, names=described.names)


def _hint(text: str, known: Sequence[str]) -> str:
    close = closest(text, known)
    return f"; did you mean {close!r}?" if close else ""


OTHERS = "others"
REFERENCES = {
    "mean": "the mean of the rows that the export was given",
    "zeros": "a row of zeros",
    "grid_center": "the middle of each input's grid",
    "rows": "the rows that were given as reference",
}


def document(described: Description, explanation: Explanation) -> dict[str, Any]:
    """JSON document of everything except the arrays."""
    return {
        "model": described.name,
        "version": explanation.version,
        "digest": described.digest,
        "method": explanation.method,
        "reference": explanation.reference,
        "layer": explanation.layer,
        "nodes_are_inputs": explanation.nodes_are_inputs,
        "inputs": explanation.names,
        "outputs": explanation.output_names,
        "rows": len(explanation.predictions),
        "largest_completeness_error": float(np.max(explanation.completeness_error, initial=0.0)),
        "notes": explanation.notes,
    }


def explanation_arrays(explanation: Explanation) -> dict[str, Any]:
    """Arrays of the output file by name."""
    return {
        "contributions": explanation.contributions,
        "base": explanation.base,
        "predictions": explanation.predictions,
        "completeness_error": explanation.completeness_error,
    }


def of_row(described: Description, explanation: Explanation, rows: Any, row: int, which: int, show: int) -> Table:
    """The only row, the `row`-th of the caller, and one of its outputs: from base to prediction, strongest first."""
    names, contributions = explanation.names, explanation.contributions[0, :, which]
    values = np.asarray(rows[0]).reshape(-1) if explanation.nodes_are_inputs else None
    order = np.argsort(-np.where(np.isnan(contributions), np.inf, np.abs(contributions)), kind="stable")
    table = Table(
        f"{described.name} version {explanation.version}, row {row}: {explanation.output_names[which]} = "
        f"{explanation.predictions[0, which]:.6g}",
        ("input", "value", "contribution", ""),
        numbers=("value", "contribution"),
        caption=_caption(explanation, float(explanation.completeness_error[0, which])),
    )
    largest = float(np.nanmax(np.abs(contributions), initial=0.0))
    table.add("base", "", f"{explanation.base[which]:.6g}", "")
    for at in order[:show].tolist():
        value = "" if values is None else f"{values[at]:.4g}"
        table.add(names[at], value, f"{contributions[at]:+.6g}", bar(float(contributions[at]), largest))
    if len(order) > show:
        rest = float(contributions[order[show:]].sum())
        table.add(f"{len(order) - show} {OTHERS}", "", f"{rest:+.6g}", bar(rest, largest))
    table.add("prediction", "", f"{explanation.predictions[0, which]:.6g}", "")
    return table


def of_all(described: Description, explanation: Explanation, show: int) -> Table:
    """Several rows: how much each input has to do with the outputs, on average."""
    strength = np.abs(explanation.contributions).mean(axis=0)
    overall = strength.mean(axis=1)
    order = np.argsort(-np.where(np.isnan(overall), np.inf, overall), kind="stable")
    names, of = explanation.names, explanation.output_names
    table = Table(
        f"{described.name} version {explanation.version}: {len(explanation.predictions)} rows, {len(of)} outputs",
        ("input", "mean |contribution|", "", "most to"),
        numbers=("mean |contribution|",),
        caption=(
            f"{min(show, len(order))} of {len(order)} inputs; --row N shows one row",
            *_caption(explanation, float(np.max(explanation.completeness_error, initial=0.0))),
        ),
    )
    largest = float(np.nanmax(overall, initial=0.0))
    for at in order[:show].tolist():
        most = int(np.argmax(strength[at]))
        table.add(names[at], f"{overall[at]:.6g}", bar(float(overall[at]), largest), of[most])
    return table


def _caption(explanation: Explanation, error: float) -> Sequence[str]:
    return (
        f"against {REFERENCES.get(explanation.reference, explanation.reference)}, by {explanation.method}; "
        f"base and contributions miss the prediction by {error:.1e}"
        + (" at most" if len(explanation.predictions) > 1 else ""),
        *explanation.notes,
    )
