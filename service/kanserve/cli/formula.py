"""Command `kanserve formula NAME`: closed form of a model with symbolic edges, or of its symbolic part."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import asdict
from typing import Any

from kanexport.shared import formula
from kanexport.shared.cli.console import Exit, print_json, say
from kanexport.shared.cli.suggest import advice
from kanexport.shared.formula import Formula, UnknownLine
from kanexport.shared.formula_printer import EXACT, FormulaError, TooLong
from kanserve.analysis import latex
from kanserve.cli import session
from kanserve.cli.options import CommandError, add_client_options, add_model_options, flag, option, whole
from kanserve.report import descriptions
from kanserve.types import Description

DIGITS = 6
HYBRID = "hybrid"  # the family of a PyTorch module export
TEXT = """Print the closed form of a symbolic model, one formula for each output.

A numeric edge has no closed form. With --partial, a formula names it phi_LAYER_SOURCE_DESTINATION, and `kanserve
curves` plots it.
"""
EXAMPLES = """examples:
  kanserve formula tests/golden/checkpoints/pykan-hello-symbolic/model --digits 3
  kanserve formula tests/golden/checkpoints/pykan-hello-symbolic/model --latex
  kanserve formula hello --partial
  kanserve formula digits --partial --by-layer --only h1_3
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser, files=True)
    text = f"number of significant digits, 1 to {EXACT}"
    option(parser, "--digits", "N", text, DIGITS, type=whole(1, EXACT))
    flag(parser, "--by-layer", "print one formula for each node of each layer")
    flag(parser, "--partial", "name numeric edges, which have no closed form; otherwise they are an error")
    text = "only the formula of this output, or with --by-layer of this node; repeat the option for more"
    option(parser, "--only", "NAME", text, [], action="append", shown="all")
    flag(parser, "--latex", "print LaTeX (amsmath) instead of Python expressions")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    target = args.name  # perhaps a path, which `session.connection` replaces with the model's name
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
    features, classes = described.names.features, described.names.classes
    inputs = formula.tokens(features, "x", described.input.shape[-1])
    outputs = formula.tokens(classes, "y", described.output.shape[-1])
    try:
        if described.family == HYBRID:
            raise CommandError(
                f"{_title(described)} is a PyTorch module export, which has no closed form",
                code="formula-of-module",
                hint="export the KAN layers from a checkpoint of their library, or use `kanserve curves`",
                kind="FormulaError",
            )
        token_of = dict(zip(described.names.classes, outputs, strict=False))
        lines = formula.formulas(
            inputs,
            described.layers,
            digits=args.digits,
            outputs=outputs,
            by_layer=args.by_layer,
            partial=args.partial,
            only=[token_of.get(name, name) for name in args.only],
        )
        looks = latex.symbols(outputs, classes) | latex.symbols(inputs, features)
        written = [latex.written(line.expression, looks) if args.latex else line.expression for line in lines]
    except FormulaError as error:
        raise CommandError(
            f"{_title(described)}: {error}",
            code=getattr(error, "code", "") or "formula-not-available",
            hint=_hint(error, args, target),
            kind="FormulaError",
        ) from error
    if args.json:
        print_json(_document(described, args, lines, inputs, written))
    else:
        names = [line.name for line in lines]
        sign, called = "#", "phi_L_I_J"
        if args.latex:
            names = [looks.get(name) or latex.symbol(name) for name in names]
            sign, called = "%", r"\varphi_{L,I,J}"
        for name, text in zip(names, written, strict=True):
            say(f"{name} = {text}")
        if formula.named(line.expression for line in lines):
            command = f"kanserve curves {shlex.quote(target)} --edge L:I:J"
            say(f"{sign} {called}: the numeric edge of layer L from source I to destination J; `{command}` plots it")
    return Exit.DONE


def _document(
    described: Description, args: argparse.Namespace, lines: tuple[Formula, ...], inputs: list[str], written: list[str]
) -> dict[str, Any]:
    texts = [{"latex": text} if args.latex else {} for text in written]
    return {
        **descriptions.identity(described),
        "inputs": inputs,
        "digits": args.digits,
        "formulas": [asdict(line) | text for line, text in zip(lines, texts, strict=True)],
        "numeric_edges": formula.named(line.expression for line in lines),
    }


def _title(described: Description) -> str:
    return f"{described.name} version {described.version}"


def _hint(error: FormulaError, args: argparse.Namespace, model: str) -> str:
    """Advice for a formula that does not exist. `model`: the name as the user typed it."""
    if isinstance(error, UnknownLine):
        hidden = re.fullmatch(r"h\d+_\d+", error.name) and not args.by_layer
        return "pass --by-layer for hidden nodes" if hidden else advice(error.name, error.known, what="formulas")
    if isinstance(error, TooLong):
        if not args.by_layer:
            return "pass --by-layer for one formula per node, and --only NAME for one of them"
        return f"plot the edges of a node: `kanserve curves {shlex.quote(model)} --layer L --destination J`"
    if not args.partial and "numeric" in str(error):
        return "pass --partial, which names numeric edges and prints the rest in closed form"
    return getattr(error, "hint", "")
