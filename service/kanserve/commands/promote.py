"""`kanserve promote NAME [VERSION]`: which version answers requests that name none."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanexport.shared.output import print_json, say
from kanexport.shared.voice import Exit
from kanserve.client import control
from kanserve.console import remote
from kanserve.console.common import add_client_options, add_name

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
    with remote.connection(args, model=args.name) as client:
        choice = control.promote(client, args.name, args.version)
    if args.json:
        print_json(asdict(choice))
    else:
        say(f"{choice.model}: version {choice.version} answers requests without a version, {choice.before} did before")
    return Exit.DONE
