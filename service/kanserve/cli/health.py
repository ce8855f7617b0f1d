"""Command `kanserve health`: health check for probes without a shell. It exits with 0 if the server is serving."""

from __future__ import annotations

import argparse

from kanexport.contract.cli.console import Exit, print_json, say
from kanserve.cli import session
from kanserve.cli.options import CommandError, add_client_options

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
    with session.connection(args, model=args.service) as client:
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
