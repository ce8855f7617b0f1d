"""Options of commands that read a checkpoint. Standard library only: a command parses them also where the extra
`export` is not installed."""

from __future__ import annotations

import argparse
from pathlib import Path

from kanexport.shared.sections import AS_TRAINED, OUT_OF_RANGE_HELP, OUT_OF_RANGE_POLICIES

BOX, BUDGET = "--box", "--budget"  # of `kanserve certify`
DEFAULT_BUDGET = "60s"


def facts(parser: argparse.ArgumentParser) -> None:
    """Arguments for facts that the checkpoint does not record."""
    add = parser.add_argument_group("facts that the checkpoint does not record").add_argument
    add("--family", help="library that wrote the checkpoint, if the file does not identify it")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="fact that the checkpoint does not record")
    add(
        "--symbolic",
        action="append",
        default=[],
        metavar="L,S,D=NAME",
        help="function of a symbolic edge (layer, source, destination) that the checkpoint does not name",
    )
    add(
        "--function",
        action="append",
        default=[],
        metavar="NAME=EXPR",
        help='definition of a custom symbolic function, such as xsinx="x*sin(x)"; checkpoints do not store it',
    )
    add(
        "--architecture",
        type=Path,
        metavar="FILE",
        help="architecture file (TOML) that lists the steps of the network, for a checkpoint that does not record them",
    )
    add(
        "--expected-outputs",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="outputs of the trained model (.npz with x and y, .csv, or .npy twice: inputs, outputs); the exporter "
        "compares the graph with them, and resolves ambiguities of the checkpoint with them",
    )


def names(parser: argparse.ArgumentParser, *, rows: bool = True) -> None:
    """Names of inputs and outputs, and with `rows` a file with rows of user data."""
    add = parser.add_argument_group("names for tables, formulas and pictures").add_argument
    each = "separated by commas, or a file: the header of a .csv, a list in a .json, lines of a .txt"
    add("--features", default="", metavar="NAMES", help=f"names of the inputs, {each}")
    add("--units", default="", metavar="NAMES", help="units of the features, in the same form; empty for none")
    add("--classes", default="", metavar="NAMES", help="names of the outputs, in the same form")
    if rows:
        add(
            "--baseline",
            type=Path,
            metavar="FILE",
            help="rows of your data, such as the training set, as .npy, .npz or .csv; the model stores the "
            "distribution of its nodes on these rows, not the rows; a .csv header names the features if --features "
            "does not",
        )
    add("--description", default="", metavar="TEXT", help="description of the model")


def scalers(parser: argparse.ArgumentParser) -> None:
    """Scalers of the inputs and outputs."""
    add = parser.add_argument_group("units (the scaling becomes part of the graph)").add_argument
    add(
        "--input-scaler",
        type=Path,
        metavar="FILE",
        help="scaler that the training applied to the inputs, as JSON: mean and scale, or min and max, of each column; "
        "requests, --baseline and --calibration then have unscaled values, --expected-outputs keep the scaled ones",
    )
    add(
        "--output-scaler",
        type=Path,
        metavar="FILE",
        help="scaler that the training applied to the targets, in the same form; predictions then have unscaled values",
    )


def certify(parser: argparse.ArgumentParser) -> None:
    """Options of `kanserve certify` for a checkpoint or a version folder."""
    add = parser.add_argument
    add(
        BOX,
        metavar="FILE",
        help="rows as .npz, .npy or .csv, whose smallest and largest value of each column make the box, or `grid`: the "
        "grid of each input (default: grid)",
    )
    add(
        BUDGET,
        metavar="TIME",
        help=f"time for the search and the bounds, such as 30s or 5m (default: {DEFAULT_BUDGET})",
    )
    facts(parser)
    add("--out-of-range", choices=tuple(OUT_OF_RANGE_POLICIES), default=AS_TRAINED, help=OUT_OF_RANGE_HELP)
    names(parser, rows=False)
    scalers(parser)


def given_to_certify(args: argparse.Namespace) -> tuple[str, ...]:
    """The flags of `certify` whose values in `args` differ from their defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    certify(parser)
    own = [action for action in parser._actions if getattr(args, action.dest) != action.default]
    return tuple(action.option_strings[0] for action in own)
