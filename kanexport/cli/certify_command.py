"""Command `kanserve certify` for a path: certifies ranges, directions and Lipschitz bounds of a checkpoint over a box
of inputs, or shows the certificate that an exported version has.

It writes nothing. The certificate is printed to stdout; `--json` prints one document. `kanserve.cli.certify` has the
options, and shows the certificates of served models.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kanexport import pipeline
from kanexport.bundle import baseline, certification
from kanexport.bundle.certification import CertifyOptions
from kanexport.certify import certificate
from kanexport.cli import arguments
from kanexport.errors import OptionError, arguments_conflict
from kanexport.export_request import Request
from kanexport.ir.model import Kan
from kanexport.shared import manifest
from kanexport.shared.cli import certificates, checkpoint_options
from kanexport.shared.cli.checkpoint_options import BOX, BUDGET, DEFAULT_BUDGET
from kanexport.shared.cli.console import Exit, print_json
from kanexport.shared.manifest import Manifest
from kanexport.shared.naming import Names
from kanexport.shared.sections import GRID_BOX


def run(args: argparse.Namespace) -> int:
    """Certify the network at `args.path`, or show the certificate of a version. `args` has the options of
    `checkpoint_options.certify`, and `json`. Returns the exit code. Raises ExportError."""
    version = arguments.version_folder(args.path, None) if arguments.is_exported(args.path) else None
    if version is not None and not checkpoint_options.given_to_certify(args):
        stored = _manifest(version)
        if stored.certificate:
            if args.json:
                print_json(certificates.document(stored.certificate, stored.names))
            else:
                certificates.show(stored.certificate, stored.names)
            return Exit.DONE
    options = CertifyOptions(
        budget=certification.seconds(args.budget or DEFAULT_BUDGET, BUDGET),
        rows=None if args.box in (None, GRID_BOX) else baseline.load(Path(args.box), BOX),
    )
    kan, names = pipeline.network(_request(args)) if version is None else _of_version(version, args)
    low, high = certification.box_of(kan, names, options.rows, BOX)
    result = certificate.certify(kan, low, high, options.budget)
    if args.json:
        features = tuple(map(names.feature, range(kan.n_inputs)))
        classes = tuple(map(names.output, range(kan.n_outputs)))
        print_json(certificate.document(result, features, classes))
    else:
        certificates.show(certification.section(options, result), names)
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


def _of_version(folder: Path, args: argparse.Namespace) -> tuple[Kan, Names]:
    """The network that the graphs of a version compute, and its names. Raises ExportError, also for options that the
    version has already."""
    if _request(args) != Request(path=args.path, repository=None):
        raise arguments_conflict(
            f"{args.path} is an exported version, which has the options of its export already",
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
