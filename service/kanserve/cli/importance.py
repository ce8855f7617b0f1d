"""Command `kanserve importance NAME --input rows.npy`: importance of inputs and edges over a batch."""

from __future__ import annotations

import argparse

from kanexport.shared.cli.console import Exit, note, print_json
from kanserve.cli import session
from kanserve.cli.options import (
    InputError,
    add_client_options,
    add_model_options,
    add_row_options,
    add_show_option,
    option,
)
from kanserve.report import descriptions
from kanserve.tables import output_results

TEXT = """Rank inputs and edges by importance: pykan attribution scores over a batch of rows.

kanserve divides the score of an output among its edges by the standard deviation of each edge over the rows, layer by
layer down to the inputs. --live uses the statistics of the model's traffic. Without --live and --input, the scores are
over the synthetic verification rows of the export, which are not your data.
"""
EXAMPLES = """examples:
  kanserve importance digits --input examples/digits.csv
  kanserve importance digits --input examples/digits.csv --output scores.npz
  kanserve importance digits --live
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser, files=True)
    add_row_options(parser, "the counted baseline rows of the export, otherwise its synthetic verification rows")
    parser.add_argument("--live", action="store_true", help="use the statistics of the model's traffic (default: off)")
    text = (
        "write arrays to this file, float32: layer{l}_edge_scores and layer{l}_std (sources, destinations), "
        "layer{l}_node_scores"
    )
    option(parser, "--output", "FILE.npz", text, shown="print tables")
    add_show_option(parser, 12, "lines")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    if args.live and args.input:
        raise InputError(
            "--live cannot be combined with --input", code="arguments-conflict", hint="remove --live or --input"
        )
    with session.queried(args) as (client, described, rows):
        scores = client.scores(described, rows, source="live" if args.live else "best" if rows is None else "")
    if args.output:
        arrays = {}
        for layer in scores.layers:
            arrays[f"layer{layer.layer}_edge_scores"] = layer.edges
            arrays[f"layer{layer.layer}_std"] = layer.std
            arrays[f"layer{layer.layer}_node_scores"] = layer.nodes
        output_results.write(args.output, arrays)
        note(output_results.written(args.output, output_results.shapes(arrays)))
    if args.json:
        print_json(descriptions.scores_document(described, scores, args.show))
    elif not args.output:
        descriptions.features(described, scores, args.show).show()
        descriptions.edges(described, scores, args.show).show()
    return Exit.DONE
