"""`kanserve infer NAME --input read_rows.npy`: rows in, outputs out."""

from __future__ import annotations

import argparse

from kanserve.client import bulk
from kanserve.console import read_rows, remote, results
from kanserve.console.common import CommandError, add_client_options, emit, note, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("name", metavar="NAME", help="a model of the server")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="rows as .npy, .npz, .csv or .json; - reads stdin"
    )
    parser.add_argument("--array", default="", metavar="NAME", help="which array of an .npz")
    parser.add_argument("--output", metavar="FILE", help=".npz, .npy, .csv or .json; without it: CSV on stdout")
    parser.add_argument("--model-version", default="", metavar="N", help="default: the highest that is ready")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or raises CommandError."""
    results.check(args.output)
    raw = read_rows.fetch(args.input)
    with remote.connection(args) as client:
        model = client.model(args.name, args.model_version)
        if len(model.inputs) != 1:
            names = ", ".join(tensor.name for tensor in model.inputs)
            raise CommandError(f"model {args.name!r} has the inputs {names}; this command feeds exactly one")
        results.check_count(args.output, tuple(tensor.name for tensor in model.outputs))
        values = read_rows.parse(raw, model.inputs[0], array=args.array)
        with remote.progress("infer") as report:
            answer = bulk.infer(client, model, values, version=args.model_version, progress=report)
    shapes = {name: list(output.shape) for name, output in answer.outputs.items()}
    facts = {"model": args.name, "version": answer.version, "rows": len(values)}
    if args.output:
        results.write(args.output, answer.outputs)
        if args.json:
            print_json({**facts, "output": args.output, "shapes": shapes})
        else:
            note(f"{args.output}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}")
    elif args.json:
        print_json({**facts, "outputs": {name: output.tolist() for name, output in answer.outputs.items()}})
    else:
        for name, output in answer.outputs.items():
            emit(results.csv_text(name, output))
    return 0
