"""Command `kanserve explain NAME --input rows.npy`: feature attributions of predictions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.shared.cli import tables
from kanexport.shared.cli.console import Exit, note, print_json
from kanexport.shared.cli.suggest import advice
from kanexport.shared.cli.tables import Table
from kanserve.cli import edge_selection, session
from kanserve.cli.options import (
    InputError,
    add_client_options,
    add_model_options,
    add_row_options,
    add_show_option,
    index,
    option,
)
from kanserve.client import chunking
from kanserve.client.explanation import Explanation, RowErrorBars, RowIntervals
from kanserve.plotting.characters import bar
from kanserve.report import descriptions
from kanserve.tables import input_rows, output_results
from kanserve.types import Description

CHOICES = ("mean", "zeros", "grid_center")
TEXT = """Show feature contributions for a prediction: how much each input changed it, compared with a reference row.

kanserve distributes the difference between the two predictions over the inputs, edge by edge and layer by layer. The
base value and the contributions sum to the prediction, except for the residual. A contribution describes this
prediction of this model. It is not a causal effect.
"""
EXAMPLES = """examples:
  kanserve explain hello --input examples/hello.csv --row 0
  kanserve explain digits --input examples/digits.csv --of y3 --reference zeros
  kanserve explain digits --input examples/digits.csv --output explanation.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser, files=True)
    add_row_options(parser)
    text = "only this output, by name or index; repeat the option for more outputs"
    shown = "the largest output of one row, otherwise all outputs"
    option(parser, "--of", "OUTPUT", text, [], action="append", shown=shown)
    text = (
        "reference row: mean (of the baseline rows of the export), zeros, grid_center, or a file whose rows are "
        "averaged"
    )
    option(parser, "--reference", "REF", text, "", shown="the first of mean, grid_center and zeros that the model has")
    option(parser, "--row", "N", "explain only this row, counted from 0", type=index, shown="all rows")
    text = (
        "write arrays to this file, float64: contributions (rows, inputs, outputs), base (outputs), predictions "
        "and completeness_error (rows, outputs), and interval (rows, outputs, 2), or 0 and 1 (rows, classes) for "
        "prediction sets, if the model has them; out_of_range (rows), uint8"
    )
    option(parser, "--output", "FILE.npz", text, shown="print a table")
    parser.add_argument(
        "--method",
        choices=("rescale", "gradient_x_input"),
        default="rescale",
        help="rescale: contributions that sum to the difference from the reference; gradient_x_input: the gradient at "
        "each row times the difference of the inputs (default: rescale)",
    )
    add_show_option(parser, 12, "inputs")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    with session.queried(args) as (client, described, rows):
        if args.row is not None and args.row >= chunking.count(rows):
            raise InputError(
                f"--row {args.row}: {args.input} has {chunking.count(rows)} rows",
                code="row-out-of-range",
                hint=f"pass a row from 0 to {chunking.count(rows) - 1}",
            )
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
    arrays, facts = explanation_arrays(explanation), document(described, explanation)
    if args.output:
        output_results.finish(args, arrays, facts)
        for line in () if args.json else (*_range_lines(explanation), *explanation.notes):
            note(line)
    elif args.json:
        print_json({**facts, **{name: array.tolist() for name, array in arrays.items()}})
    elif len(rows) != 1:
        of_all(described, explanation, args.show).show()
    else:
        which = range(len(explanation.outputs)) if args.of else [int(explanation.predictions[0].argmax())]
        for at in which:
            of_row(described, explanation, rows, args.row or 0, at, args.show).show()
    return Exit.DONE


def _reference(args: argparse.Namespace, described: Description) -> Any:
    """Reference by its name, or as rows. Raises InputError."""
    if args.reference in ("", *CHOICES):
        return args.reference
    if not Path(args.reference).is_file():
        raise InputError(
            f"--reference {args.reference}: unknown reference, expected {', '.join(CHOICES)} or a file of rows",
            code="reference-unknown",
            hint=advice(args.reference, CHOICES, what="references"),
        )
    source = input_rows.contents(args.reference)
    return input_rows.rows_for_all(described.inputs, source, names=described.names)


OTHERS = "others"
REFERENCES = {
    "mean": "mean of the baseline rows of the export",
    "zeros": "zeros",
    "grid_center": "middle of each input's grid",
    "rows": "mean of the rows that you passed",
}


def document(described: Description, explanation: Explanation) -> dict[str, Any]:
    """JSON document of everything except the arrays."""
    intervals, bars = explanation.intervals, explanation.error_bars
    return {
        **descriptions.identity(described, explanation.version),
        "method": explanation.method,
        "reference": explanation.reference,
        "layer": explanation.layer,
        "nodes_are_inputs": explanation.nodes_are_inputs,
        "inputs": explanation.names,
        "outputs": explanation.output_names,
        "rows": len(explanation.predictions),
        "rows_out_of_range": None if explanation.out_of_range is None else int(explanation.out_of_range.sum()),
        "largest_completeness_error": float(np.max(explanation.completeness_error, initial=0.0)),
        "notes": explanation.notes,
        "intervals": intervals
        and {
            "method": intervals.method,
            "coverage": intervals.coverage,
            "reliable": intervals.reliable,
            "note": intervals.note,
        },
        "error_bars": bars and {"assumption": bars.assumption, "contradicted": bars.contradicted, "note": bars.note},
    }


def explanation_arrays(explanation: Explanation) -> dict[str, Any]:
    """Arrays of the output file by name. `interval` is as in the output kan.interval."""
    arrays: dict[str, Any] = {
        "contributions": explanation.contributions,
        "base": explanation.base,
        "predictions": explanation.predictions,
        "completeness_error": explanation.completeness_error,
    }
    if explanation.intervals is not None:
        bounds, sets = explanation.intervals.bounds, explanation.intervals.sets
        arrays["interval"] = bounds if sets is None else sets.astype(np.uint8)
    if explanation.error_bars is not None:
        arrays["error_bar"] = explanation.error_bars.bars
    if explanation.out_of_range is not None:
        arrays["out_of_range"] = explanation.out_of_range.astype(np.uint8)
    return arrays


def _range_lines(explanation: Explanation) -> Sequence[str]:
    """Words about rows out of range; none if all are in range."""
    marks = explanation.out_of_range
    if marks is None or not marks.any():
        return ()
    what = "the row is" if len(marks) == 1 else f"{int(marks.sum())} of {len(marks)} rows are"
    return (f"OUT OF RANGE: {what} out of grid, or beyond the rows of the export: an extrapolation",)


def _bar_note(own: RowErrorBars | None) -> Sequence[str]:
    return () if own is None else (f"error bars: assumption: {own.assumption}{'; ' if own.note else ''}{own.note}",)


def _note(intervals: RowIntervals | None) -> Sequence[str]:
    return () if intervals is None or not intervals.note else (f"intervals: {intervals.note}",)


def of_row(described: Description, explanation: Explanation, rows: Any, row: int, which: int, show: int) -> Table:
    """Table of one output of the only row: base value, contributions by magnitude, prediction. `row`: its number in the
    user's file."""
    names, contributions = explanation.names, explanation.contributions[0, :, which]
    values = np.asarray(rows[0]).reshape(-1) if explanation.nodes_are_inputs else None
    order = np.argsort(-np.where(np.isnan(contributions), np.inf, np.abs(contributions)), kind="stable")
    intervals, bars, lines = explanation.intervals, explanation.error_bars, list[str]()
    if intervals is not None:
        lines.append(f"{intervals.coverage * 100:g}% prediction ")
        if intervals.sets is not None:
            classes = (described.names.output(int(at)) for at in np.flatnonzero(intervals.sets[0]))
            lines[0] += f"set: {', '.join(classes)}"
        else:
            assert intervals.bounds is not None
            low, high = intervals.bounds[0, which]
            lines[0] += f"interval ({intervals.method}): {low:.6g} to {high:.6g}"
        lines[0] += "; UNRELIABLE" * (intervals.reliable is False)
        lines += _note(intervals)
    if bars is not None:
        own = float(bars.bars[0, which])
        text = f"±{own:.6g}" if np.isfinite(own) else "none, the row is outside of the certified box"
        lines += [f"error bar: {text}{'; UNRELIABLE' * bars.contradicted}", *_bar_note(bars)]
    table = Table(
        f"{described.name} version {explanation.version}, row {row}: {explanation.output_names[which]} = "
        f"{explanation.predictions[0, which]:.6g}",
        ("input", "value", "contribution", ""),
        numbers=("value", "contribution"),
        caption=(
            *_range_lines(explanation),
            *lines,
            *_caption(explanation, float(explanation.completeness_error[0, which])),
        ),
    )
    largest = float(np.nanmax(np.abs(contributions), initial=0.0))
    table.add("base value", "", f"{explanation.base[which]:.6g}", "")
    for at in order[:show].tolist():
        value = "" if values is None else f"{values[at]:.4g}"
        table.add(names[at], value, f"{contributions[at]:+.6g}", bar(float(contributions[at]), largest))
    if len(order) > show:
        rest = float(contributions[order[show:]].sum())
        table.add(f"{len(order) - show} {OTHERS}", "", f"{rest:+.6g}", bar(rest, largest))
    table.add("prediction", "", f"{explanation.predictions[0, which]:.6g}", "")
    return table


def of_all(described: Description, explanation: Explanation, show: int) -> Table:
    """Table of several rows: the mean magnitude of the contributions of each input."""
    strength = np.abs(explanation.contributions).mean(axis=0)
    overall = strength.mean(axis=1)
    order = np.argsort(-np.where(np.isnan(overall), np.inf, overall), kind="stable")
    names, of = explanation.names, explanation.output_names
    table = Table(
        f"{described.name} version {explanation.version}: {len(explanation.predictions)} rows, {len(of)} outputs",
        ("input", "mean |contribution|", "", "mostly to"),
        numbers=("mean |contribution|",),
        caption=(
            f"{min(show, len(order))} of {len(order)} inputs; --row N explains one row",
            *_range_lines(explanation),
            *_caption(explanation, float(np.max(explanation.completeness_error, initial=0.0))),
            *_note(explanation.intervals),
            *_bar_note(explanation.error_bars),
        ),
    )
    largest = float(np.nanmax(overall, initial=0.0))
    for at in order[:show].tolist():
        most = int(np.argmax(strength[at]))
        table.add(names[at], f"{overall[at]:.6g}", bar(float(overall[at]), largest), of[most])
    return table


def _caption(explanation: Explanation, error: float) -> Sequence[str]:
    return (
        f"reference: {REFERENCES.get(explanation.reference, explanation.reference)}; method: {explanation.method}; "
        f"{'residual' if len(explanation.predictions) == 1 else 'largest residual'} {error:.1e}",
        *explanation.notes,
    )
