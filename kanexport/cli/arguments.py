"""Arguments of `kanserve export`, one group for each task, and the options and requests that commands make of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kanexport import export_request
from kanexport.batch import run as sweep
from kanexport.bundle import baseline, calibration, certification, error_bars, explain_graph
from kanexport.bundle.calibration import IntervalOptions
from kanexport.bundle.certification import CertifyOptions
from kanexport.bundle.error_bars import ErrorBarOptions
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.ccode.integer_tables import STORAGE
from kanexport.errors import CheckpointError, OptionError, arguments_conflict
from kanexport.export_request import Request
from kanexport.quantization import quantize
from kanexport.quantization.quantize import CALIBRATION, QuantizationOptions
from kanexport.shared import naming
from kanexport.shared.custom_ops import KERNEL_FILE
from kanexport.shared.manifest import FILE_NAME
from kanexport.shared.naming import Names
from kanexport.shared.sections import ANCHORS, EXPLAIN_FILE, FP16_WEIGHTS, INT8


def graph_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for graphs next to the one for inference."""
    add = parser.add_argument_group("other graphs of the network").add_argument
    add(
        "--optimize-for-batch",
        type=int,
        default=0,
        metavar="ROWS",
        help="write one graph, optimized for batches of this many rows (default: a graph for small batches and, "
        "if it is faster, another for large batches)",
    )
    add(
        "--kernel",
        action=argparse.BooleanOptionalAction,
        default=None,
        help=f"also write {KERNEL_FILE}, which computes layers with the custom operators of kanserve-kernel (default: "
        "if it is installed and supports a layer)",
    )
    add(
        "--explain",
        action="store_true",
        help=f"also write {EXPLAIN_FILE}: the outputs with their node and edge values and, with --baseline, feature "
        "contributions, for any onnxruntime",
    )
    add(
        "--explain-layers",
        default="",
        metavar="L,L",
        help="layers with edge values in that graph, by number or name (default: layers with at most "
        f"{explain_graph.EDGE_LIMIT} edges per row); implies --explain",
    )


def precision_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for quantization and its largest error."""
    add = parser.add_argument_group("quantization (descriptions mark the model as APPROXIMATE)").add_argument
    add(
        "--quantize",
        choices=quantize.METHODS,
        default="",
        help="fp16-weights: store weights as float16, compute in float32; int8: sum int8 values if the functions of a "
        "layer allow it, otherwise store weights as int8; branches that lose too much stay in float32 (default: exact)",
    )
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="rows of your data, as .npy, .npz or .csv, on which the exporter measures errors and selects branches "
        "(default: the rows of --baseline, otherwise rows that the exporter generates); with --coverage, the rows of "
        "the prediction intervals instead",
    )
    add(
        "--max-error",
        type=float,
        metavar="E",
        help="largest difference from the checkpoint, relative to the largest output (default: "
        f"{quantize.MAX_ERROR[INT8]:g} for int8, {quantize.MAX_ERROR[FP16_WEIGHTS]:g} for fp16-weights)",
    )


def interval_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for prediction intervals."""
    add = parser.add_argument_group(
        "prediction intervals (with --calibration FILE: rows with targets that the model was not trained on, as .npz "
        "with the arrays x and y, or .csv with target columns y, or y0, y1, ...)"
    ).add_argument
    add(
        "--coverage",
        type=float,
        metavar="C",
        help="store prediction intervals (sets for labels) with this coverage, such as 0.9; needs --calibration",
    )
    add(
        "--interval-method",
        choices=calibration.METHODS,
        default="",
        help="absolute: intervals of constant width; normalized: wider where residuals of similar predicted values are "
        "larger (default: absolute)",
    )


def certificate_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for a certificate."""
    add = parser.add_argument_group(
        "certificate (ranges, directions and Lipschitz bounds that hold in a box)"
    ).add_argument
    add("--certify", action="store_true", help="store a certificate of the model, or write nothing if it has none")
    add(
        "--certify-box",
        metavar="FILE",
        help="rows as .npz, .npy or .csv, whose smallest and largest value of each column make the box, or `grid`: the "
        "grid of each input (default: grid)",
    )
    add("--certify-budget", metavar="TIME", help="time for the search and the bounds, such as 30s or 5m (default: 60s)")
    add(
        "--range-from",
        choices=(certification.TRAINING, certification.CERTIFICATE),
        default=certification.TRAINING,
        help="range that --out-of-range flag and reject check: training is the grid, or the baseline rows without one, "
        "certificate is the certified box (default: training)",
    )


def error_bar_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for error bars."""
    add = parser.add_argument_group(
        "error bars (with --certify and --calibration FILE, rows with targets as for prediction intervals)"
    ).add_argument
    add(
        error_bars.ERROR_BARS,
        action="store_true",
        help="store reference rows, from which the server bounds the error of each output by its distance to them; the "
        f"version then has up to {ANCHORS} rows of --calibration and their errors, so do not use it for private rows",
    )
    add(
        error_bars.FACTOR,
        type=float,
        metavar="F",
        help="assumption of the bound: the true function is at most F times as steep as the certified Lipschitz bounds "
        "of the network, and the targets have no noise (default: 1)",
    )


def code_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for C code."""
    add = parser.add_argument_group("C code").add_argument
    add(
        "--c",
        type=Path,
        metavar="DIR",
        help="write DIR/NAME.c and DIR/NAME.h: the network as C99 without dependencies, verified against float64 if "
        "a C compiler is installed; also export to a repository only if --repository names one",
    )
    add(
        "--c-tables",
        choices=tuple(STORAGE),
        default="float32",
        help="with --c: storage of spline coefficients; int16 has half the size and an allowed error of "
        f"{export_request.CODE_ERRORS['int16']:g}, int8 a quarter and {export_request.CODE_ERRORS['int8']:g}, unless "
        "--tolerance is larger (default: float32)",
    )
    add(
        "--wasm",
        action="store_true",
        help="with --c: also write DIR/NAME.wasm, the same code as a WebAssembly module for `kanserve report "
        "--interactive`; needs the extra wasm",
    )


def folder_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for the checkpoints of a folder, and the limits of each export."""
    add = parser.add_argument_group("folders of checkpoints").add_argument
    add("--recursive", action="store_true", help="export all checkpoints in a folder and its subfolders")
    add("--report", type=Path, metavar="FILE", help="with --recursive: write the result of each checkpoint as JSON")
    add(
        "--time-limit",
        type=float,
        default=sweep.SECONDS,
        metavar="SECONDS",
        help=f"with --recursive: time limit per file (default: {sweep.SECONDS:g})",
    )
    add(
        "--memory-limit",
        type=int,
        default=sweep.MEMORY,
        metavar="MIB",
        help=f"with --recursive: memory limit per file in MiB (default: {sweep.MEMORY})",
    )


def module_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for a PyTorch module."""
    add = parser.add_argument_group("PyTorch modules (need torch)").add_argument
    add("--module", metavar="PKG.MOD:FACTORY", help="Python function that returns the PyTorch module")
    add("--checkpoint", type=Path, metavar="FILE", help="with --module: its weights (default: those of the factory)")
    add("--example", type=Path, metavar="FILE", help="with --module: input rows of the module, .npy or .csv")
    add("--input-shape", metavar="1,8,8", help="with --module: shape of one row, for random example rows")


def new_version_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for a changed network, which becomes another version of its model."""
    add = parser.add_argument
    add("--new-version", type=int, metavar="N", help="version number of the result (default: the next free one)")
    add("--repository", type=Path, metavar="FOLDER", help="model repository of the result (default: that of MODEL)")
    add("--author", help="name in the manifest of the result (default: the name of the user)")


def quantization(args: argparse.Namespace) -> QuantizationOptions:
    """Options of the quantization. It does not use rows of prediction intervals or error bars, because rows that select
    branches would not be exchangeable with new rows. Raises OptionError."""
    unused = args.calibration is None or args.coverage is not None or args.error_bars
    rows = None if unused else baseline.load(args.calibration, CALIBRATION)
    return QuantizationOptions(args.quantize, rows, args.max_error)


def intervals(args: argparse.Namespace) -> IntervalOptions:
    """Options of prediction intervals. Raises OptionError."""
    return calibration.options(args.calibration, args.coverage, args.interval_method, names(args).classes)


def certificate(args: argparse.Namespace) -> CertifyOptions:
    """Options of the certificate. Raises OptionError."""
    return certification.options(
        args.certify, args.certify_box, args.certify_budget, args.range_from, args.out_of_range
    )


def bars(args: argparse.Namespace) -> ErrorBarOptions:
    """Options of error bars. Raises OptionError."""
    return error_bars.options(
        args.calibration,
        args.error_bar_factor,
        enabled=args.error_bars,
        certify=args.certify,
        classes=names(args).classes,
    )


def explanations(args: argparse.Namespace) -> ExplainOptions:
    """Options of the explaining graph."""
    layers = tuple(filter(None, (text.strip() for text in args.explain_layers.split(","))))
    return ExplainOptions(args.explain or bool(layers), layers)


def checkpoint_facts(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `Request` from the arguments of `kanexport.shared.cli.checkpoint_options.facts`."""
    return {
        "family": args.family,
        "options": tuple(args.option),
        "symbolic": tuple(args.symbolic),
        "functions": tuple(args.function),
        "architecture": args.architecture,
        "expected_outputs": tuple(args.expected_outputs),
    }


def checkpoint_request(args: argparse.Namespace, **more: Any) -> Request:
    """The request that reads the checkpoint `args.path` and writes nothing, from the arguments of
    `kanexport.shared.cli.checkpoint_options`. `more`: further fields. Raises OptionError."""
    return Request(path=args.path, repository=None, names=names(args), **checkpoint_facts(args), **more)


def is_exported(path: Path) -> bool:
    """Whether it is the folder of an exported model, or of one of its versions."""
    return (path / FILE_NAME).exists() or bool(versions(path))


def version_folder(path: Path, version: int | None) -> Path:
    """The folder of a version: `path` itself, or the numbered folder in it, the highest if `version` is None. Raises
    CheckpointError."""
    if (path / FILE_NAME).exists():
        if version is not None and path.name != str(version):
            raise arguments_conflict(f"--version is {version}, but {path} is a version", hint="remove --version")
        return path
    known = versions(path)
    if version in known or (known and version is None):
        return path / str(version or known[-1])
    raise CheckpointError(
        f"{path} has the versions {', '.join(map(str, known))}, expected {version}"
        if known
        else f"{path} has no version of a model",
        code="version-unknown",
        hint="pass the folder of an exported model, such as models/hello",
    )


def versions(path: Path) -> list[int]:
    """The versions in the folder of a model, ascending; none for another path."""
    return sorted(int(file.parent.name) for file in path.glob(f"*/{FILE_NAME}") if file.parent.name.isdecimal())


def names(args: argparse.Namespace) -> Names:
    """Names of the inputs and outputs. Raises OptionError."""
    try:
        features, units, classes = (
            naming.parse(f"--{what}", getattr(args, what)) for what in ("features", "units", "classes")
        )
    except naming.NamingError as error:
        raise OptionError(str(error), code=error.code, hint=error.hint) from error
    return Names(features, units, classes, args.description)
