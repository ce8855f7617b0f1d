"""Command `kanserve scores NAME --input rows.npy`: importance of inputs and edges over a batch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from kanexport.shared.cli.console import Exit, note, print_json
from kanserve.cli import input_rows, output_results, session
from kanserve.cli.options import (
    InputError,
    add_client_options,
    add_model_options,
    add_row_options,
    add_show_option,
)
from kanserve.report import text_tables
from kanserve.types import Scores

TEXT = """Rank inputs and edges by importance: pykan attribution scores over a batch of rows.

kanserve divides the score of an output among its edges by the standard deviation of each edge over the rows, layer by
layer down to the inputs. --live uses the statistics of the model's traffic. Without --live and --input, the scores are
over the synthetic verification rows of the export, which are not your data.
"""
EXAMPLES = """examples:
  kanserve scores digits --input examples/digits.csv
  kanserve scores digits --input examples/digits.csv --output scores.npz
  kanserve scores digits --live
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser, "the counted baseline rows of the export, otherwise its synthetic verification rows")
    parser.add_argument("--live", action="store_true", help="use the statistics of the model's traffic (default: off)")
    parser.add_argument(
        "--output",
        metavar="FILE.npz",
        help="write arrays to this file, float32: layer{l}_edge_scores and layer{l}_std (sources, destinations), "
        "layer{l}_node_scores (default: print tables)",
    )
    add_show_option(parser, 12, "lines")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    if args.live and args.input:
        raise InputError(
            "--live cannot be combined with --input", code="arguments-conflict", hint="remove --live or --input"
        )
    source = input_rows.contents(args.input) if args.input else None
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows = (
            None
            if source is None
            else input_rows.rows_for_all(described.inputs, source, array=args.array, names=described.names)
        )
        counted = "live" if args.live else "best" if rows is None else ""
        scores = client.scores(described, rows, source=counted)
    arrays = dict(_arrays(scores))
    if args.output:
        output_results.write(args.output, arrays)
        note(output_results.summary(args.output, arrays))
    if args.json:
        print_json(text_tables.scores_document(described, scores, args.show))
    elif not args.output:
        text_tables.features(described, scores, args.show).show()
        text_tables.edges(described, scores, args.show).show()
    return Exit.DONE


def _arrays(scores: Scores) -> Iterator[tuple[str, Any]]:
    for layer in scores.layers:
        yield f"layer{layer.layer}_edge_scores", layer.edges
        yield f"layer{layer.layer}_std", layer.std
        yield f"layer{layer.layer}_node_scores", layer.nodes
