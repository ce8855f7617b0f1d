"""Command `kanserve export`: arguments in, one call, a table out.

Results go to stdout, progress and errors to stderr; `--json` prints one document.
Exit codes as in `kanexport.contract.cli.console`: 3 the graph failed its verification, 4 some
checkpoint of a folder was refused (or an option was of no use to any).
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kanexport import export_request
from kanexport.batch import run as sweep
from kanexport.bundle import baseline
from kanexport.bundle.publish import MAX_BATCH_SIZE, Result, Target
from kanexport.cli import arguments, render
from kanexport.contract import atomic
from kanexport.contract.cli import program, tables
from kanexport.contract.cli.console import EXIT_CODES, Exit, json_text, print_json
from kanexport.contract.cli.suggest import how_to_install
from kanexport.contract.sections import AS_TRAINED, OUT_OF_RANGE_HELP, OUT_OF_RANGE_POLICIES
from kanexport.errors import OptionError
from kanexport.graph import precision
from kanexport.options import Options
from kanexport.pipeline import Request, export
from kanexport.verify.tolerances import OUTPUT_TOLERANCE

PROGRAM = "kanserve export"
EXAMPLES = """examples:
  kanserve export model/0.5 --repository models --name wine     pykan: the prefix, or any of its files
  kanserve export digits.pt --repository models --name digits   efficient-kan: .pt, .pth, .safetensors
  kanserve export digits.pt --repository models --expected-outputs outputs.npz   compared with the trained model
  kanserve export pruned --repository models --option input_id=0,2 --option n_inputs=4
  kanserve export --module nets:make --checkpoint net.pt --example rows.npy   a module with KAN layers in it
  kanserve export digits.pt --repository models --explain       with explain.onnx, for any onnxruntime
  kanserve export experiments --recursive --repository models --report report.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export` to a parser."""
    parser.description = (
        "Turn a trained KAN into an entry of a model repository, verified against our reading of its file or, with "
        "--expected-outputs, against the trained model."
    )
    parser.epilog = f"{EXAMPLES}\n{EXIT_CODES}"
    add = parser.add_argument
    add("path", nargs="?", type=Path, metavar="checkpoint", help="the checkpoint file, or pykan's prefix")
    add("--repository", type=Path, default=Path("models"), help="the model repository (default: models)")
    add("--name", default="", help="model name (default: the checkpoint's)")
    add("--version", type=int, default=1, help="version number (default: 1)")
    _facts(parser)
    add("--dtype", choices=tuple(precision.DATATYPES), default="float32", help="precision of the graph")
    add("--max-batch-size", type=int, default=MAX_BATCH_SIZE, help=f"rows per request (default: {MAX_BATCH_SIZE})")
    add("--tolerance", type=float, default=OUTPUT_TOLERANCE, help="largest relative error of outputs allowed")
    add("--force", action="store_true", help="replace the version if it exists")
    add("--json", action="store_true", help="print one JSON document")
    add("--verbose", action="store_true", help="list the known alternatives of each assumed option")
    add("--recursive", action="store_true", help="export all checkpoints in a folder and its subfolders")
    add("--report", type=Path, metavar="FILE", help="with --recursive: write the result of each checkpoint as JSON")
    arguments.form_options(parser)
    add("--out-of-range", choices=tuple(OUT_OF_RANGE_POLICIES), default=AS_TRAINED, help=OUT_OF_RANGE_HELP)
    arguments.naming_options(parser)
    arguments.explaining_options(parser)
    arguments.precision_options(parser)
    modules = parser.add_argument_group("modules with KAN layers in them (needs torch)").add_argument
    modules("--module", metavar="PKG.MOD:FACTORY", help="a function of yours that makes the torch module")
    modules("--checkpoint", type=Path, metavar="FILE", help="with --module: its weights (default: as it was made)")
    modules("--example", type=Path, metavar="FILE", help="with --module: rows as it takes them, .npy or .csv")
    modules("--input-shape", metavar="1,8,8", help="with --module: the shape of one row, to try it with random ones")
    add("--time-limit", type=float, default=sweep.SECONDS, metavar="SECONDS", help="with --recursive: for one file")
    add("--memory-limit", type=int, default=sweep.MEMORY, metavar="MIB", help="with --recursive: for one file")


def _facts(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for facts that the user knows and no file holds."""
    add = parser.add_argument
    add("--family", help="the library that wrote the checkpoint, if the file leaves it open")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="a fact the checkpoint does not hold")
    add(
        "--symbolic",
        action="append",
        default=[],
        metavar="L,S,D=NAME",
        help="the function of a symbolic edge (layer, source, destination) that the checkpoint does not name",
    )
    add(
        "--function",
        action="append",
        default=[],
        metavar="NAME=EXPR",
        help='a symbolic function of your own, such as xsinx="x*sin(x)"; no checkpoint holds those',
    )
    add(
        "--architecture",
        type=Path,
        metavar="FILE",
        help="architecture file (TOML) that lists the steps of the network, if the checkpoint leaves their order open",
    )
    add(
        "--expected-outputs",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="outputs of the trained model (.npz with x and y, .csv, or .npy twice: inputs, outputs): the exporter "
        "compares the export with them, and they decide what the checkpoint leaves open",
    )


def run(args: argparse.Namespace) -> int:
    """Run an export from parsed arguments; the exit code. Raises ExportError."""
    _check(args)
    with _terminable():
        if args.recursive:
            return _folder(_request(args), args)
        with tables.bar("exporting") as advance:
            result = _module(args, advance) if args.module else export(_request(args), advance=advance)
    if args.json:
        print_json(export_request.document(result))
    else:
        render.result(result, verbose=args.verbose)
    return Exit.DONE


def _check(args: argparse.Namespace) -> None:
    """Refuse arguments that contradict each other. Raises OptionError."""
    _check_folder(args)
    if args.module:
        _check_module(args)
        return
    for name in ("checkpoint", "example", "input_shape"):
        if getattr(args, name) is not None:
            raise OptionError(f"--{name.replace('_', '-')} is for --module")
    if args.path is None:
        raise OptionError("no checkpoint is given", hint="kanserve export FILE, or a module with --module")


def _check_module(args: argparse.Namespace) -> None:
    """Raises OptionError for an argument that cannot be combined with --module."""
    for name in ("path", "family", "architecture", "recursive", "symbolic"):
        if getattr(args, name):
            shown = "a checkpoint as an argument" if name == "path" else f"--{name}"
            raise OptionError(f"--module and {shown} exclude each other", hint="its weights: --checkpoint FILE")
    for name in ("optimize_for_batch", "kernel", "quantize", "calibration", "max_error"):
        if getattr(args, name):
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} is for checkpoints that are read as layers: the graph of a module is torch's")


def _check_folder(args: argparse.Namespace) -> None:
    """Raises OptionError for an argument that needs --recursive, or cannot be combined with it."""
    of_one = {
        "--expected-outputs are": args.expected_outputs,
        "--baseline is": args.baseline,
        "rows for --calibration are": args.calibration,
        "names are": arguments.names(args),
        "--explain-layers are": args.explain_layers,
    }
    for what, value in of_one.items():
        if args.recursive and value:
            raise OptionError(f"{what} of one model, not of a folder", hint="export the checkpoints one by one")
    if args.report is not None and not args.recursive:
        raise OptionError("--report is for --recursive")


def _request(args: argparse.Namespace) -> Request:
    explanations = arguments.explanations(args)
    return Request(
        path=args.path,
        repository=args.repository,
        name=args.name,
        version=args.version,
        family=args.family,
        options=tuple(args.option),
        symbolic=tuple(args.symbolic),
        functions=tuple(args.function),
        architecture=args.architecture,
        dtype=args.dtype,
        max_batch_size=args.max_batch_size,
        tolerance=args.tolerance,
        force=args.force,
        expected_outputs=tuple(args.expected_outputs),
        names=arguments.names(args),
        baseline=args.baseline,
        explain=explanations.enabled,
        explain_layers=explanations.layers,
        out_of_range=args.out_of_range,
        optimize_for_batch=args.optimize_for_batch,
        kernel=args.kernel,
        quantization=arguments.quantization(args),
    )


def _module(args: argparse.Namespace, advance: tables.Report) -> Result:
    """Export what a factory makes. Raises ExportError, also where torch is missing."""
    try:
        from kanexport.torch_export import module_command
    except ModuleNotFoundError as error:
        raise OptionError(
            f"--module needs {error.name}, which is not installed", hint=how_to_install("torch")
        ) from error
    target = Target(
        repository=args.repository,
        name=args.name or args.module.rpartition(":")[2],
        version=args.version,
        dtype=args.dtype,
        max_batch_size=args.max_batch_size,
        tolerance=args.tolerance,
        force=args.force,
        names=arguments.names(args),
        baseline=None if args.baseline is None else baseline.load(args.baseline),
        explain=arguments.explanations(args),
        out_of_range=args.out_of_range,
    )
    options = Options.parse(tuple(args.option), functions=tuple(args.function))
    return module_command.run(
        args.module,
        args.checkpoint,
        args.example,
        args.input_shape,
        target,
        options,
        advance,
        args.expected_outputs,
        tables.phases("exporting", advance),
    )


def _folder(request: Request, args: argparse.Namespace) -> int:
    """Export a folder's checkpoints. Raises ExportError where none can be tried."""
    fault = atomic.check(args.report) if args.report is not None else ""
    if fault:
        raise OptionError(
            f"--report {args.report} cannot be written: {fault}", hint="name a file in a folder that is there"
        )
    with tables.bar("exporting") as advance:
        outcome = sweep.sweep(request, seconds=args.time_limit, memory=args.memory_limit, advance=advance)
    document = sweep.document(outcome)
    if args.report is not None:
        _write_report(args.report, document)
    if args.json:
        print_json(document)
    else:
        render.folder(document)
    return outcome.exit_code


def _write_report(path: Path, document: dict[str, Any]) -> None:
    try:
        atomic.write(path, (json_text(document, indent=1) + "\n").encode())
    except OSError as error:
        raise OptionError(
            f"--report {path} cannot be written: {error.strerror}",
            hint="the versions that it would list are in the repository: `kanserve models REPOSITORY` shows them",
        ) from error


def main(argv: list[str] | None = None) -> int:
    """The command by itself, as `python -m kanexport` runs it: the same as `kanserve export`."""
    arguments_text = sys.argv[1:] if argv is None else argv
    parser = program.Parser(prog=PROGRAM)
    configure(parser)
    return program.run(PROGRAM, arguments_text, lambda: run(program.parse(parser, arguments_text)))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that the hidden folder is removed."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
