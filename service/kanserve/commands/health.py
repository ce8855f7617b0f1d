"""`kanserve health`: 0 when a server (or one of its services) is serving. For probes without a shell."""

from __future__ import annotations

import argparse

from kanexport.shared.output import print_json, say
from kanexport.shared.voice import Exit
from kanserve.console import remote
from kanserve.console.common import CommandError, add_client_options

EXAMPLES = """examples:
  kanserve health --timeout 4                    the whole server
  kanserve health --service digits --url host:8001
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--service", default="", metavar="NAME", help="a model, or liveness (default: the whole server)"
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when serving. Raises CommandError, with exit code 1 for a server that is not."""
    with remote.connection(args, model=args.service) as client:
        state = client.health(args.service)
    if state != "SERVING":
        raise CommandError(
            f"{args.service or 'the server'} at {args.url} is {state}", kind="NotServing", exit_code=Exit.FAILED
        )
    if args.json:
        print_json({"url": args.url, "service": args.service, "state": state})
    else:
        say(state)
    return Exit.DONE
