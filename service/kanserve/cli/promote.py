"""Command `kanserve promote NAME [VERSION]`: choice of the default version of a model."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanexport.contract.cli.console import Exit, print_json, say
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_name
from kanserve.client import control

EXAMPLES = """examples:
  kanserve promote digits 3                      version 3 answers, whatever versions come
  kanserve promote digits                        the highest that is ready answers again

The choice lasts until the server ends. `kanserve rollback digits` goes back to what answered before.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = EXAMPLES
    add_name(parser)
    parser.add_argument("version", metavar="VERSION", nargs="?", default="", help="a version (the highest)")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when it answers. Raises CommandError."""
    with session.connection(args, model=args.name) as client:
        choice = control.promote(client, args.name, args.version)
    if args.json:
        print_json(asdict(choice))
    else:
        say(f"{choice.model}: the default version is {choice.version}, it was {choice.previous_version}")
    return Exit.DONE
