"""Arguments of `kanserve export` for names, baseline rows and explanations."""

from __future__ import annotations

import argparse
from pathlib import Path

from kanexport.bundle import baseline, explain_graph
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.contract import naming
from kanexport.contract.custom_ops import KERNEL_FILE
from kanexport.contract.naming import Names
from kanexport.contract.sections import EXPLAIN_FILE, FP16_WEIGHTS, INT8
from kanexport.errors import OptionError
from kanexport.quantization import options
from kanexport.quantization.options import QuantizationOptions
from kanexport.quantization.quantize import CALIBRATION


def naming_options(parser: argparse.ArgumentParser) -> None:
    """Names, and rows of the user's data."""
    add = parser.add_argument_group("names, for every table, formula and picture").add_argument
    each = "separated by commas, or a file: the header of a .csv, a list in a .json, lines of a .txt"
    add("--features", default="", metavar="NAMES", help=f"one for each number of a row, {each}")
    add("--units", default="", metavar="NAMES", help="one for each feature, in the same way; empty for none")
    add("--classes", default="", metavar="NAMES", help="one for each number of an answer, in the same way")
    add(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="rows of your data, such as the training set, as .npy, .npz or "
        ".csv: counts of what the nodes were on them go with the model, the rows do not; a .csv's header names the "
        "features if --features does not",
    )
    add("--description", default="", metavar="TEXT", help="what the model is, in words")


def form_options(parser: argparse.ArgumentParser) -> None:
    """Further graphs of the same network."""
    add = parser.add_argument
    add(
        "--optimize-for-batch",
        type=int,
        default=0,
        metavar="ROWS",
        help="write one graph, made for batches of so many rows (default: a graph for small batches and, if it is "
        "faster, another for large batches)",
    )
    add(
        "--kernel",
        action="store_true",
        help=f"write {KERNEL_FILE} too: splines by an operator of kanserve-kernel, for servers that have it",
    )


def explaining_options(parser: argparse.ArgumentParser) -> None:
    """The graph that tells how answers came about."""
    add = parser.add_argument_group("explanations that travel").add_argument
    add(
        "--explain",
        action="store_true",
        help=f"write {EXPLAIN_FILE} too: the answers with the nodes and edges behind them and, with --baseline, "
        "contributions of the inputs, for any onnxruntime",
    )
    add(
        "--explain-layers",
        default="",
        metavar="L,L",
        help=f"whose edges it has, by number or name (default: all with at most {explain_graph.EDGE_LIMIT} edges a "
        "row); implies --explain",
    )


def precision_options(parser: argparse.ArgumentParser) -> None:
    """Quantization, and its largest error."""
    add = parser.add_argument_group("quantization (descriptions mark the model as APPROXIMATE)").add_argument
    add(
        "--quantize",
        choices=options.METHODS,
        default="",
        help="fp16-weights: store weights as float16, compute in float32; int8: sum int8 values if the functions of a "
        "layer allow it, otherwise store weights as int8; branches that lose too much stay in float32 (default: exact)",
    )
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="rows of your data on which errors are measured and branches chosen, as .npy, .npz or .csv (default: "
        "those of --baseline, otherwise rows that the exporter makes)",
    )
    add(
        "--max-error",
        type=float,
        metavar="E",
        help="largest difference from the checkpoint, relative to the largest output (default: "
        f"{options.MAX_ERROR[INT8]:g} for int8, {options.MAX_ERROR[FP16_WEIGHTS]:g} for fp16-weights)",
    )


def quantization(args: argparse.Namespace) -> QuantizationOptions:
    """The options of quantization. Raises OptionError."""
    rows = None if args.calibration is None else baseline.load(args.calibration, CALIBRATION)
    return QuantizationOptions(args.quantize, rows, args.max_error)


def explanations(args: argparse.Namespace) -> ExplainOptions:
    """The options of the explaining graph that the user chose."""
    layers = tuple(filter(None, (text.strip() for text in args.explain_layers.split(","))))
    return ExplainOptions(args.explain or bool(layers), layers)


def names(args: argparse.Namespace) -> Names:
    """The user's names for the model's numbers. Raises OptionError."""
    try:
        features, units, classes = (
            naming.parse(f"--{what}", getattr(args, what)) for what in ("features", "units", "classes")
        )
    except naming.NamingError as error:
        raise OptionError(str(error)) from error
    return Names(features, units, classes, args.description)
