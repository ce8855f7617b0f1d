"""Command `kanserve infer NAME --input rows.npy`: outputs of a model for rows of a file."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

from kanexport.shared.cli import tables
from kanexport.shared.cli.console import Exit, note, print_json
from kanexport.shared.error_bars import NAME as ERROR_BAR
from kanserve.analysis.intervals import NAME as INTERVAL
from kanserve.cli import output_results, row_stream, session
from kanserve.cli.options import add_client_options, add_model_options, add_row_options
from kanserve.client import chunking
from kanserve.client.results import Answer, ServedModel
from kanserve.client.sync import Client

REPORTED = 1.0  # seconds; a longer command reports its speed
TEXT = """Send rows of a file to a served model, and write the outputs to stdout as CSV, or to a file.

The command reads and sends the file in chunks, so that a large file needs little memory. A model with several inputs
needs an .npz file with one array for each input, by name.
"""
EXAMPLES = """examples:
  kanserve infer digits --input examples/digits.csv
  kanserve infer digits --input examples/digits.csv --output outputs.npz
  kanserve infer digits --input examples/digits.csv --output outputs.jsonl
  head -3 examples/digits.csv | kanserve infer digits --input - --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"write the outputs to this file: {', '.join(output_results.SUFFIXES[:-1])} or .jsonl, which has one line "
        "per row (default: CSV on stdout)",
    )
    parser.add_argument(
        "--interval",
        action="store_true",
        help=f"also request {INTERVAL}: prediction intervals, or the set of classes, of a model that was exported with "
        "--coverage (default: off)",
    )
    parser.add_argument(
        "--error-bar",
        action="store_true",
        help=f"also request {ERROR_BAR}: a bound of the error of each output under an assumption, of a model that was "
        "exported with --error-bars; inf for a row without a bound (default: off)",
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, output_results.SUFFIXES)
    kept: dict[str, Any] = {}
    keep = (lambda outputs, _: kept.update(outputs)) if args.json else None
    with row_stream.opened(args.input) as source, session.connection(args, model=args.name) as client:
        model = client.model(args.name, args.model_version)
        optional = (INTERVAL,) * args.interval + (ERROR_BAR,) * args.error_bar
        names = tuple(output.name for output in model.outputs) + optional
        output_results.check_count(args.output, names)
        rows = row_stream.rows(model.inputs, source, array=args.array, names=model.names)
        with output_results.opened(args.output, names, keep=keep) as sink:
            ran = _infer(args, client, model, rows, sink, names if optional else ())
    _print(args, ran, sink, kept)
    return Exit.DONE


@dataclass(slots=True)
class _Run:
    """Version that computed the rows, the total time, and notes on optional outputs."""

    version: str
    seconds: float
    notes: list[str]

    def add_notes(self, answer: Answer) -> None:
        """Keep the notes of a response that has intervals or error bars, once."""
        for output, what in ((INTERVAL, "intervals"), (ERROR_BAR, "error bars")):
            text = str(answer.parameters.get(f"{output}_note", ""))
            unreliable = answer.parameters.get(f"{output}_reliable") is False
            text = f"warning: {what} are unreliable: {text}" if unreliable else f"{what}: {text}" if text else ""
            if text and text not in self.notes:
                self.notes.append(text)

    def rate(self, rows: int) -> float:
        return rows / max(self.seconds, 1e-9)


def _infer(
    args: argparse.Namespace,
    client: Client,
    model: ServedModel,
    rows: row_stream.Rows,
    sink: output_results.Shapes,
    outputs: tuple[str, ...],
) -> _Run:
    """Send the rows to the server, and write their outputs to the sink."""
    ran, begun = _Run("", 0.0, []), time.monotonic()
    with tables.bar("infer", unit="rows", at_once=False) as report:
        for answer in chunking.stream(client, model, rows.parts, version=args.model_version, outputs=outputs):
            sink.add(answer)
            ran.add_notes(answer)
            ran.version = answer.version
            report(sink.rows, rows.total, rows.share())
    ran.seconds = time.monotonic() - begun
    return ran


def _print(args: argparse.Namespace, ran: _Run, sink: output_results.Shapes, kept: dict[str, Any]) -> None:
    """Print the written outputs, their place and the speed on stderr; with --json, print one document."""
    if args.output and not args.json:
        note(output_results.written(args.output, sink.shapes))
    for text in ran.notes:
        note(text)
    if ran.seconds >= REPORTED:
        note(f"{sink.rows} rows in {ran.seconds:.1f} s, {ran.rate(sink.rows):.0f} rows per second")
    if args.json:
        what = (
            {"output": args.output, "shapes": sink.shapes}
            if args.output
            else {"outputs": {name: output.tolist() for name, output in kept.items()}}
        )
        speed = {"seconds": round(ran.seconds, 3), "rows_per_second": round(ran.rate(sink.rows), 1)}
        print_json({"model": args.name, "version": ran.version, "rows": sink.rows, **speed, **_notes(ran), **what})


def _notes(ran: _Run) -> dict[str, list[str]]:
    return {"notes": ran.notes} if ran.notes else {}
