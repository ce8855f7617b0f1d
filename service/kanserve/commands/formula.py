"""`kanserve formula NAME`: the closed form of a model whose edges are all symbolic."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanexport.shared.output import print_json, say
from kanexport.shared.voice import Exit
from kanserve.client.description import Description
from kanserve.console import remote
from kanserve.console.common import CommandError, add_client_options, add_model_options
from kanserve.interpret import formula
from kanserve.interpret.terms import EXACT, LIMIT, FormulaError

DIGITS = 6
HYBRID = "hybrid"  # the family of a torch module with KAN layers in it
EXAMPLES = """examples:
  kanserve formula hello --digits 3
  kanserve formula hello --by-layer        where one line would be too long
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = EXAMPLES
    add_model_options(parser)
    parser.add_argument(
        "--digits", type=_digits, default=DIGITS, metavar="N", help=f"significant digits, 1 to {EXACT} ({DIGITS})"
    )
    parser.add_argument("--by-layer", action="store_true", help="one line for every node, instead of one for an output")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    with remote.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
    lines = _formulas(described, digits=args.digits, by_layer=args.by_layer)
    if args.json:
        print_json(
            {
                "model": described.name,
                "version": described.version,
                "digest": described.digest,
                "inputs": _inputs(described),
                "digits": args.digits,
                "formulas": [asdict(line) for line in lines],
            }
        )
    else:
        for line in lines:
            say(f"{line.name} = {line.expression}")
    return Exit.DONE


def _inputs(described: Description) -> list[str]:
    return formula.tokens(described.names.features, "x", described.input.shape[-1])


def _formulas(described: Description, *, digits: int, by_layer: bool) -> tuple[formula.Formula, ...]:
    """The lines of a model. Raises CommandError where it has no closed form, or too long a one."""
    title = f"{described.name} version {described.version}"
    if described.family == HYBRID:
        raise CommandError(
            f"{title} is a module with KAN layers in it; what stands around them is not described, "
            "so there is no closed form",
            kind="FormulaError",
        )
    try:
        outputs = formula.tokens(described.names.classes, "y", described.output.shape[-1])
        return tuple(
            formula.formulas(_inputs(described), described.layers, digits=digits, outputs=outputs, by_layer=by_layer)
        )
    except FormulaError as error:
        too_long = str(LIMIT) in str(error) and not by_layer
        raise CommandError(
            f"{title}: {error}",
            hint="--by-layer gives one line for every node" if too_long else "",
            kind="FormulaError",
        ) from error


def _digits(text: str) -> int:
    value = int(text)
    if not 1 <= value <= EXACT:
        raise argparse.ArgumentTypeError(f"{text} is not a number of digits from 1 to {EXACT}")
    return value
