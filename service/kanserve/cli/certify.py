"""Command `kanserve certify`: the stored certificate of a served model, or a certificate of a checkpoint or a version
folder, which `kanexport.cli.certify_command` computes. Only the latter needs the extra `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kanexport.shared.cli import certificates, checkpoint_options, suggest
from kanexport.shared.cli.console import EXIT_CODES, Exit, print_json
from kanserve.cli import session
from kanserve.cli.options import InputError, add_client_options, option

OF_FILES, EXTRA = "kanexport.cli.certify_command", "export"
VERSION = "--model-version"
TEXT = """Guarantee the output ranges of a trained KAN over a box of inputs, the direction of each output in each input,
and Lipschitz bounds. The ranges hold for the float32 graph that `kanserve export` writes.

For the name of a served model, show the certificate that the server has for it (`kanserve export --certify`). For a
version folder, show the certificate that it was exported with. For a checkpoint, compute one.
"""
EXAMPLES = """examples:
  kanserve certify tests/golden/checkpoints/pykan-hello-adapted/model --budget 5s
  kanserve certify tests/golden/checkpoints/pykan-hello-adapted/model --box examples/hello.csv --budget 5s --json
  kanserve certify hello                                          # stored certificate of a served model
"""
EXITS = EXIT_CODES


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="served model, or path of a checkpoint, of the prefix of a pykan checkpoint, or of an exported version "
        "(./net, net.pt)",
    )
    parser.set_defaults(files=True, folders=True)
    option(parser, VERSION, "N", "version of the served model", "", shown="the server's default version")
    checkpoint_options.certify(parser)
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises CommandError, and for a path ExportError or MissingPackage."""
    if session.is_path_for(args, args.name):
        if args.model_version:
            raise InputError(
                f"{VERSION} cannot be combined with the path {args.name}",
                code="arguments-conflict",
                hint=f"remove {VERSION}, and pass the folder of the version, such as models/hello/2",
            )
        args.path = Path(args.name)
        return int(suggest.load("certify", OF_FILES, EXTRA).run(args))
    if flags := checkpoint_options.given_to_certify(args):
        raise InputError(
            f"{flags[0]} cannot be combined with the served model {args.name}, whose certificate was stored at export",
            code="arguments-conflict",
            hint=_anew(
                args, f"remove {flags[0]}, or pass a checkpoint or a version folder, such as models/{args.name}/1"
            ),
        )
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        stored = client.certificates(args.name, described.version)
    if not stored:
        raise InputError(
            f"model {args.name} version {described.version} has no certificate",
            code="certificate-missing",
            hint=_anew(
                args,
                "export the model again with `kanserve export --certify`, or compute one with `kanserve certify "
                f"FOLDER`, such as models/{args.name}/{described.version}",
            ),
        )
    (certificate, *_) = stored  # an export makes at most one
    if args.json:
        own = {"model": described.name, "version": described.version}
        print_json(own | certificates.document(certificate, described.names))
    else:
        certificates.show(certificate, described.names, of=f"{described.name} version {described.version}")
    return Exit.DONE


def _anew(args: argparse.Namespace, advice: str) -> str:
    """The advice, after the path of a folder or a checkpoint of the same name in the current folder."""
    return "; or ".join(filter(None, (session.server_advice(args, args.name), advice)))
