"""`kanserve rollback NAME`: the version answers that did before."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanexport.shared.output import print_json, say
from kanexport.shared.voice import Exit
from kanserve.client import control
from kanserve.console import remote
from kanserve.console.common import add_client_options, add_name

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
    with remote.connection(args, model=args.name) as client:
        choice = control.rollback(client, args.name)
    if args.json:
        print_json(asdict(choice))
    else:
        say(f"{choice.model}: version {choice.version} answers requests without a version again, {choice.before} did")
    return Exit.DONE
