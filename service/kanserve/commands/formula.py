"""`kanserve formula NAME`: the closed form of a model whose edges are all symbolic."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanserve.console import remote, tables
from kanserve.console.common import CommandError, add_client_options, print_json
from kanserve.interpret import formula
from kanserve.interpret.terms import EXACT, LIMIT, FormulaError

DIGITS = 6
HYBRID = "hybrid"  # the family of a torch module with KAN layers in it


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("name", metavar="NAME", help="a model of the server")
    parser.add_argument(
        "--digits", type=_digits, default=DIGITS, metavar="N", help=f"significant digits, 1 to {EXACT} ({DIGITS})"
    )
    parser.add_argument("--by-layer", action="store_true", help="one line for every node, instead of one for an output")
    parser.add_argument("--model-version", default="", metavar="N", help="default: the highest that is ready")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or raises CommandError."""
    with remote.connection(args) as client:
        described = client.describe(args.name, args.model_version)
    if described.family == HYBRID:
        raise CommandError(
            f"{described.name} version {described.version} is a module with KAN layers in it; "
            "what stands around them is not described, so there is no closed form"
        )
    columns = described.input.shape[-1]
    try:
        found = formula.formulas(columns, described.layers, digits=args.digits, by_layer=args.by_layer)
    except FormulaError as error:
        advice = "" if args.by_layer or str(LIMIT) not in str(error) else "; --by-layer gives one line for every node"
        raise CommandError(
            f"{described.name} version {described.version}: {tables.printable(str(error))}{advice}"
        ) from error
    if args.json:
        print_json(
            {
                "model": described.name,
                "version": described.version,
                "digest": described.digest,
                "inputs": [f"x{at}" for at in range(columns)],
                "digits": args.digits,
                "formulas": [asdict(line) for line in found],
            }
        )
    else:
        for line in found:
            print(tables.printable(f"{line.name} = {line.expression}"))
    return 0


def _digits(text: str) -> int:
    value = int(text)
    if not 1 <= value <= EXACT:
        raise argparse.ArgumentTypeError(f"{text} is not a number of digits from 1 to {EXACT}")
    return value
