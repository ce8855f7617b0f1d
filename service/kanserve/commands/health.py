"""`kanserve health`: 0 when a server (or one of its services) is serving. For probes without a shell."""

from __future__ import annotations

import argparse

from kanserve.console import remote
from kanserve.console.common import FAILED, CommandError, add_client_options, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--service", default="", metavar="NAME", help="a model, or liveness (default: the whole server)"
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when serving; raises CommandError (1) otherwise."""
    with remote.connection(args) as client:
        state = client.health(args.service)
    if state != "SERVING":
        raise CommandError(f"{args.service or 'the server'} at {args.url} is {state}", exit_code=FAILED)
    if args.json:
        print_json({"url": args.url, "service": args.service, "state": state})
    else:
        print(state)
    return 0
