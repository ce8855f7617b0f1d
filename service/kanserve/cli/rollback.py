"""Command `kanserve rollback NAME`: return to the previous default version."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanexport.contract.cli.console import Exit, print_json, say
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_name
from kanserve.client import control

EXAMPLES = """examples:
  kanserve rollback digits

What answered before the last `kanserve promote` answers again; where nobody promoted a version, the one below the
highest does. It stays whatever versions come, until the server ends or `kanserve promote digits` says otherwise.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = EXAMPLES
    add_name(parser)
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when it answers. Raises CommandError."""
    with session.connection(args, model=args.name) as client:
        choice = control.rollback(client, args.name)
    if args.json:
        print_json(asdict(choice))
    else:
        say(f"{choice.model}: the default version is {choice.version} again, it was {choice.previous_version}")
    return Exit.DONE
