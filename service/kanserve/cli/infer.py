"""Command `kanserve infer NAME --input rows.npy`: outputs of a model for rows of a file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

from kanexport.shared.cli import tables
from kanexport.shared.cli.console import Exit, note, print_json
from kanexport.shared.error_bars import NAME as ERROR_BAR
from kanserve.analysis.intervals import NAME as INTERVAL
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_model_options, add_row_options, flag, option
from kanserve.client import chunking
from kanserve.client.results import InferenceResult
from kanserve.tables import output_results, row_stream

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
    add_model_options(parser, files=True)
    add_row_options(parser)
    text = (
        f"write the outputs to this file: {', '.join(output_results.SUFFIXES[:-1])} or .jsonl, which has one line "
        "per row"
    )
    option(parser, "--output", "FILE", text, shown="CSV on stdout")
    text = (
        f"also request {INTERVAL}: prediction intervals, or the set of classes, of a model that was exported with "
        "--coverage"
    )
    flag(parser, "--intervals", text)
    text = (
        f"also request {ERROR_BAR}: a bound of the error of each output under an assumption, of a model that was "
        "exported with --error-bars; inf for a row without a bound"
    )
    flag(parser, "--error-bars", text)
    for old in ("--interval", "--error-bar"):
        parser.add_argument(old, dest=f"{old[2:].replace('-', '_')}s", action=_OldSwitch, help=argparse.SUPPRESS)
    add_client_options(parser)


class _OldSwitch(argparse.Action):
    """Old name of a switch whose name is now a plural."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        note(f"warning: {option} is now {option}s")
        setattr(namespace, self.dest, True)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, output_results.SUFFIXES)
    kept: dict[str, Any] = {}
    keep = (lambda outputs, _: kept.update(outputs)) if args.json else None
    with row_stream.opened(args.input) as source, session.connection(args, model=args.name) as client:
        model = client.model(args.name, args.model_version)
        optional = (INTERVAL,) * args.intervals + (ERROR_BAR,) * args.error_bars
        names = tuple(output.name for output in model.outputs) + optional
        output_results.check_count(args.output, names)
        rows = row_stream.rows(model.inputs, source, array=args.array, names=model.names)
        noted, version, begun = dict[str, None](), "", time.monotonic()
        with (
            output_results.opened(args.output, names, keep=keep) as sink,
            tables.bar("infer", unit="rows", at_once=False) as report,
        ):
            outputs = names if optional else ()
            for part in chunking.stream(client, model, rows.parts, version=args.model_version, outputs=outputs):
                sink.add(part)
                noted |= dict.fromkeys(_notes(part))
                version = part.version
                report(sink.rows, rows.total, rows.share())
            seconds = time.monotonic() - begun
    notes = list(noted)
    rate = sink.rows / max(seconds, 1e-9)
    if args.output and not args.json:
        note(output_results.written(args.output, sink.shapes))
    for text in notes:
        note(text)
    if seconds >= REPORTED:
        note(f"{sink.rows} rows in {seconds:.1f} s, {rate:.0f} rows per second")
    if args.json:
        what = (
            {"output": args.output, "shapes": sink.shapes}
            if args.output
            else {"outputs": {name: output.tolist() for name, output in kept.items()}}
        )
        speed = {"seconds": round(seconds, 3), "rows_per_second": round(rate, 1)}
        more = {"notes": notes} if notes else {}
        print_json({"model": args.name, "version": version, "rows": sink.rows, **speed, **more, **what})
    return Exit.DONE


def _notes(part: InferenceResult) -> Iterator[str]:
    """The notes of a response that has intervals or error bars."""
    for output, what in ((INTERVAL, "intervals"), (ERROR_BAR, "error bars")):
        text = str(part.parameters.get(f"{output}_note", ""))
        if part.parameters.get(f"{output}_reliable") is False:
            yield f"warning: {what} are unreliable: {text}"
        elif text:
            yield f"{what}: {text}"
