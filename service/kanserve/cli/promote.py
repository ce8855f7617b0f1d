"""Command `kanserve promote NAME [VERSION]`: choice of the default version of a model."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanexport.contract.cli.console import Exit, print_json, say
from kanserve.cli import default_file, session
from kanserve.cli.options import add_client_options, add_name
from kanserve.client import control

TEXT = """Set the default version of a model: the version for requests that name none.

Without --repository, the command changes one server. The choice lasts until that server exits, and newer versions do
not change it. With --repository, the command writes the file FOLDER/NAME/default. Without VERSION, it removes the file.
Each server that serves the folder reads the file at its next scan, and again after a restart. A changed file replaces
an earlier choice on a server. `kanserve rollback NAME` restores the previous default version.
"""
EXAMPLES = """examples:
  kanserve promote digits 1
  kanserve promote digits                                         # the highest version that is ready
  kanserve promote digits 1 --repository models                   # on each server of the folder
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_name(parser)
    parser.add_argument(
        "version",
        metavar="VERSION",
        nargs="?",
        default="",
        help="version number (default: the highest version that is ready and not an edit, now and after each update)",
    )
    default_file.add_repository_option(parser)
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 after the change. Raises CommandError."""
    default_file.check_target(args)
    if args.repository is not None:
        choice = default_file.promote(args.repository, args.name, args.version)
    else:
        with session.connection(args, model=args.name) as client:
            choice = control.promote(client, args.name, args.version)
    if args.json:
        print_json(asdict(choice))
    else:
        say(f"{choice.model}: default version {choice.version}, previously {choice.previous_version or 'none'}")
    return Exit.DONE
