"""Command `kanserve certify`: certifies ranges, directions and Lipschitz bounds of a checkpoint over a box of inputs,
or shows the certificate that an exported version has.

It writes nothing. The certificate is printed to stdout; `--json` prints one document.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kanexport import pipeline
from kanexport.bundle import baseline, certification
from kanexport.bundle.certification import CertifyOptions
from kanexport.certify import certificate
from kanexport.cli import arguments
from kanexport.contract import manifest
from kanexport.contract.cli import certificates
from kanexport.contract.cli.console import EXIT_CODES, Exit, print_json
from kanexport.contract.manifest import Manifest
from kanexport.contract.naming import Names
from kanexport.contract.sections import AS_TRAINED, GRID_BOX, OUT_OF_RANGE_HELP, OUT_OF_RANGE_POLICIES
from kanexport.errors import CheckpointError, OptionError
from kanexport.export_request import Request
from kanexport.ir.model import Kan

BOX, BUDGET = "--box", "--budget"
DEFAULT_BUDGET = "60s"
EXAMPLES = """examples:
  kanserve certify tests/golden/checkpoints/pykan-hello-adapted/model --budget 5s
  kanserve certify tests/golden/checkpoints/pykan-hello-adapted/model --box examples/hello.csv --budget 5s --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `certify` to a parser."""
    parser.description = (
        "Guarantee the output ranges of a trained KAN over a box of inputs, the direction of each output in each "
        "input, and Lipschitz bounds. The ranges hold for the float32 graph that `kanserve export` writes. For a "
        "version folder, show the certificate that it was exported with (`kanserve export --certify`)."
    )
    parser.epilog = f"{EXAMPLES}\n{EXIT_CODES}"
    add = parser.add_argument
    add(
        "path",
        type=Path,
        metavar="checkpoint",
        help="checkpoint file, prefix of a pykan checkpoint, or folder of an exported version",
    )
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
    add("--json", action="store_true", help="print one JSON document")
    arguments.fact_options(parser)
    add("--out-of-range", choices=tuple(OUT_OF_RANGE_POLICIES), default=AS_TRAINED, help=OUT_OF_RANGE_HELP)
    arguments.naming_options(parser, rows=False)
    arguments.scaler_options(parser)


def run(args: argparse.Namespace) -> int:
    """Certify a network from parsed arguments, or show the certificate of a version. Returns the exit code. Raises
    ExportError."""
    version = arguments.version_folder(args.path, None) if arguments.is_exported(args.path) else None
    if version is not None and not (args.box or args.budget):
        stored = _manifest(version)
        if stored.certificate:
            return _print_stored(stored, as_json=args.json)
    options = _options(args)
    kan, names = _of_checkpoint(args) if version is None else _of_version(version, args)
    low, high = certification.box_of(kan, names, options.rows, BOX)
    result = certificate.certify(kan, low, high, options.budget)
    if args.json:
        features = tuple(names.feature(at) for at in range(kan.n_inputs))
        classes = tuple(names.output(at) for at in range(kan.n_outputs))
        print_json(certificate.document(result, features, classes))
    else:
        certificates.show(certification.section(options, result), names)
    return Exit.DONE


def _options(args: argparse.Namespace) -> CertifyOptions:
    return CertifyOptions(
        budget=certification.seconds(args.budget or DEFAULT_BUDGET, BUDGET),
        rows=None if args.box in (None, GRID_BOX) else baseline.load(Path(args.box), BOX),
    )


def _print_stored(stored: Manifest, *, as_json: bool) -> int:
    if as_json:
        print_json(certificates.document(stored.certificate, stored.names))
    else:
        certificates.show(stored.certificate, stored.names)
    return Exit.DONE


def _manifest(folder: Path) -> Manifest:
    """The manifest of a version. Raises OptionError."""
    try:
        return manifest.load(folder)
    except (OSError, manifest.ManifestError) as error:
        raise OptionError(
            f"{folder / manifest.FILE_NAME} cannot be read: {error}",
            code="manifest-invalid",
            hint="copy the version folder again, or export the model again",
        ) from error


def _of_checkpoint(args: argparse.Namespace) -> tuple[Kan, Names]:
    """The network of a checkpoint, and its names. Raises ExportError; for the name of a served model with a hint."""
    try:
        return pipeline.network(_request(args))
    except CheckpointError as error:
        if error.code != "checkpoint-not-found" or args.path.name != str(args.path):
            raise
        hint = f"{error.hint}; `kanserve models {args.path} --json` prints the certificate of a served model"
        raise CheckpointError(error.message, code=error.code, hint=hint) from error


def _of_version(folder: Path, args: argparse.Namespace) -> tuple[Kan, Names]:
    """The network that the graphs of a version compute, and its names. Raises ExportError, also for options that the
    version has already."""
    if _request(args) != Request(path=args.path, repository=None):
        raise OptionError(
            f"{args.path} is an exported version, which has the options of its export already",
            code="arguments-conflict",
            hint="pass only --box, --budget and --json",
        )
    opened = pipeline.reopen(folder)
    if opened.quantize:
        raise OptionError(
            f"{folder} has quantized graphs ({opened.quantize}), which certificates do not cover",
            code="certificate-not-supported",
            hint="certify the checkpoint, or an export of it without --quantize",
        )
    return opened.served, opened.target.names


def _request(args: argparse.Namespace) -> Request:
    return arguments.checkpoint_request(
        args, out_of_range=args.out_of_range, input_scaler=args.input_scaler, output_scaler=args.output_scaler
    )
