"""Command `kanserve export`: parses the arguments, runs one export, and prints a table.

Results go to stdout, progress and errors to stderr; `--json` prints one document. The exit codes are those of
`kanexport.shared.cli.console`: 3 if the graph failed its verification, 4 if a checkpoint of a folder was rejected (or
an option was unused).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
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
from kanexport.errors import OptionError, needs
from kanexport.graph import precision
from kanexport.options import KnownFacts
from kanexport.pipeline import Request, export
from kanexport.shared import atomic
from kanexport.shared.cli import checkpoint_options, program, tables
from kanexport.shared.cli.console import EXIT_CODES, Exit, json_text, print_json
from kanexport.shared.cli.suggest import how_to_install
from kanexport.shared.sections import AS_TRAINED, OUT_OF_RANGE_HELP, OUT_OF_RANGE_POLICIES
from kanexport.verify.tolerances import OUTPUT_TOLERANCE

PROGRAM = "kanserve export"
REPOSITORY = Path("models")
argument_not_for_module = functools.partial(OptionError, code="argument-not-for-module")
EXAMPLES = """examples:
  kanserve export model/0.5 --repository models --name wine     pykan: the prefix, or any of its files
  kanserve export digits.pt --repository models --name digits   efficient-kan: .pt, .pth, .safetensors
  kanserve export digits.pt --repository models --expected-outputs outputs.npz   compared with the trained model
  kanserve export pruned --repository models --option input_id=0,2 --option n_inputs=4
  kanserve export --module nets:make --checkpoint net.pt --example rows.npy   a PyTorch module
  kanserve export digits.pt --repository models --explain       portable explanations
  kanserve export model/0.5 --repository models --certify       with certified ranges of the outputs
  kanserve export digits.pt --c firmware --name digits          C code, without a repository
  kanserve export experiments --recursive --repository models --report report.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export` to a parser."""
    parser.description = (
        "Export a trained KAN to a model repository. The graph is verified against kanserve's interpretation of the "
        "checkpoint or, with --expected-outputs, against the trained model."
    )
    parser.epilog = f"{EXAMPLES}\n{EXIT_CODES}"
    add = parser.add_argument
    add("path", nargs="?", type=Path, metavar="checkpoint", help="checkpoint file, or prefix of a pykan checkpoint")
    add("--repository", type=Path, default=REPOSITORY, help="model repository (default: models; none with --c)")
    add("--name", default="", help="model name (default: the name of the checkpoint)")
    add("--version", type=int, default=1, help="version number (default: 1)")
    add("--force", action="store_true", help="replace the version if it exists")
    add(
        "--dtype",
        choices=tuple(precision.DATATYPES),
        default="float32",
        help="precision of the graph (default: float32)",
    )
    add("--max-batch-size", type=int, default=MAX_BATCH_SIZE, help=f"most rows per request (default: {MAX_BATCH_SIZE})")
    add(
        "--tolerance",
        type=float,
        default=OUTPUT_TOLERANCE,
        help=f"largest relative error of the outputs (default: {OUTPUT_TOLERANCE:g})",
    )
    add("--out-of-range", choices=tuple(OUT_OF_RANGE_POLICIES), default=AS_TRAINED, help=OUT_OF_RANGE_HELP)
    add("--json", action="store_true", help="print one JSON document")
    add("--verbose", action="store_true", help="list the known alternatives of each assumed option")
    checkpoint_options.facts(parser)
    checkpoint_options.names(parser)
    checkpoint_options.scalers(parser)
    arguments.graph_options(parser)
    arguments.interval_options(parser)
    arguments.certificate_options(parser)
    arguments.error_bar_options(parser)
    arguments.precision_options(parser)
    arguments.code_options(parser)
    arguments.module_options(parser)
    arguments.folder_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run an export from parsed arguments. Returns the exit code. Raises ExportError."""
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
    """Reject arguments that contradict each other. Raises OptionError."""
    _check_folder(args)
    for flag, stored, what in (
        ("--coverage", args.coverage is not None, "intervals"),
        ("--certify", args.certify, "certificate"),
    ):
        if stored and _repository(args) is None:
            raise OptionError(
                f"{flag} needs --repository: C code has no {what}",
                code="option-needs-other",
                hint=f"name a repository with --repository, or remove {flag}",
            )
    if args.module:
        _check_module(args)
        return
    for name in ("checkpoint", "example", "input_shape"):
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise needs(flag, "--module", f"remove {flag}, or name a factory with --module PKG.MOD:FACTORY")
    if args.path is None:
        raise OptionError(
            "missing argument: CHECKPOINT",
            code="argument-missing",
            hint="run 'kanserve export FILE', or pass --module PKG.MOD:FACTORY for a PyTorch module",
        )


def _check_module(args: argparse.Namespace) -> None:
    """Raises OptionError for an argument that cannot be combined with --module."""
    for name in ("path", "family", "architecture", "recursive", "symbolic"):
        if getattr(args, name):
            shown = "a positional CHECKPOINT" if name == "path" else f"--{name}"
            raise argument_not_for_module(
                f"--module cannot be combined with {shown}",
                hint="pass the weights of the module with --checkpoint FILE",
            )
    for name in ("input_scaler", "output_scaler"):
        if getattr(args, name):
            flag = f"--{name.replace('_', '-')}"
            raise argument_not_for_module(
                f"{flag} cannot be combined with --module, whose layers would have other units than the inputs",
                hint=f"remove {flag}, and scale the values in the forward of the module",
            )
    graph = ("optimize_for_batch", "kernel", "quantize", "calibration", "max_error", "c", "certify")
    for name in (*graph, "error_bars", "error_bar_factor"):
        if getattr(args, name) and (name != "calibration" or args.coverage is None):
            flag = f"--{name.replace('_', '-')}"
            raise argument_not_for_module(
                f"{flag} cannot be combined with --module: torch.onnx builds that graph", hint=f"remove {flag}"
            )


def _check_folder(args: argparse.Namespace) -> None:
    """Raises OptionError for an argument that needs --recursive, or cannot be combined with it."""
    of_one = {
        "--expected-outputs": args.expected_outputs,
        "--baseline": args.baseline,
        "--calibration": args.calibration,
        "--coverage": args.coverage,
        "--features, --units, --classes or --description": arguments.names(args),
        "--explain-layers": args.explain_layers,
        "--certify": args.certify,
        "--error-bars": args.error_bars,
        "--c": args.c,
    }
    for what, value in of_one.items():
        if args.recursive and value:
            raise OptionError(
                f"{what} cannot be combined with --recursive: it applies to a single model",
                code="argument-not-for-folder",
                hint="export the checkpoints one by one",
            )
    if args.c is None and (args.wasm or args.c_tables != "float32"):
        flag = "--wasm" if args.wasm else "--c-tables"
        raise needs(flag, "--c", "name a folder with --c DIR")
    if args.report is not None and not args.recursive:
        raise needs("--report", "--recursive")


def _repository(args: argparse.Namespace) -> Path | None:
    """The repository; None if only C code is written."""
    unnamed: bool = args.repository is REPOSITORY
    return None if unnamed and args.c is not None else args.repository


def _destination(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `Destination`. Raises OptionError."""
    return {
        "repository": _repository(args),
        "name": args.name,
        "version": args.version,
        "dtype": args.dtype,
        "max_batch_size": args.max_batch_size,
        "tolerance": args.tolerance,
        "force": args.force,
        "names": arguments.names(args),
        "out_of_range": args.out_of_range,
        "intervals": arguments.intervals(args),
        "error_bars": arguments.bars(args),
    }


def _request(args: argparse.Namespace) -> Request:
    explanations = arguments.explanations(args)
    return Request(
        **_destination(args),
        **arguments.checkpoint_facts(args),
        path=args.path,
        code=args.c,
        wasm=args.wasm,
        storage=args.c_tables,
        baseline=args.baseline,
        explain=explanations.enabled,
        explain_layers=explanations.layers,
        optimize_for_batch=args.optimize_for_batch,
        kernel=args.kernel,
        quantization=arguments.quantization(args),
        certification=arguments.certificate(args),
        input_scaler=args.input_scaler,
        output_scaler=args.output_scaler,
    )


def _module(args: argparse.Namespace, advance: tables.Report) -> Result:
    """Export the module that a factory returns. Raises ExportError, also if torch is missing."""
    try:
        from kanexport.torch_export import module_command
    except ModuleNotFoundError as error:
        raise OptionError(
            f"--module needs the Python package {error.name}, which is not installed",
            code="package-not-installed",
            hint=how_to_install("torch"),
        ) from error
    target = Target(
        **_destination(args) | {"name": args.name or args.module.rpartition(":")[2]},
        baseline=None if args.baseline is None else baseline.load(args.baseline),
        explain=arguments.explanations(args),
    )
    facts = KnownFacts.parse(tuple(args.option), functions=tuple(args.function))
    return module_command.run(
        args.module,
        args.checkpoint,
        args.example,
        args.input_shape,
        target,
        facts,
        advance,
        args.expected_outputs,
        tables.phases("exporting", advance),
    )


def _folder(request: Request, args: argparse.Namespace) -> int:
    """Export the checkpoints of a folder. Raises ExportError if it has none."""
    fault = atomic.check(args.report) if args.report is not None else ""
    if fault:
        raise OptionError(
            f"--report {args.report} cannot be written: {fault}",
            code="report-not-writable",
            hint="name a file in an existing folder",
        )
    with tables.bar("exporting") as advance:
        outcome = sweep.sweep(request, seconds=args.time_limit, memory=args.memory_limit, advance=advance)
    document = sweep.document(outcome)
    if args.report is not None:
        try:
            atomic.write(args.report, (json_text(document, indent=1) + "\n").encode())
        except OSError as error:
            raise OptionError(
                f"--report {args.report} cannot be written: {error.strerror}",
                code="report-not-writable",
                hint="run `kanserve models REPOSITORY` to list the exported versions",
            ) from error
    if args.json:
        print_json(document)
    else:
        render.folder(document)
    return outcome.exit_code


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m kanexport`, the same as `kanserve export`."""
    arguments_text = sys.argv[1:] if argv is None else argv
    parser = program.Parser(prog=PROGRAM)
    configure(parser)
    return program.run(PROGRAM, arguments_text, lambda: run(program.parse(parser, arguments_text)))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that the staging folder is removed."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
