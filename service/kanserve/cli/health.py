"""Command `kanserve health`: health check for probes without a shell. It exits with 0 if the server is serving."""

from __future__ import annotations

import argparse

from kanexport.shared.cli.console import Exit, exit_codes_of
from kanserve.cli import session
from kanserve.cli.options import CommandError, add_client_options, option, print_result

TEXT = """Check whether a server, or one of its models, is ready. Use it as a probe in containers without a shell."""
EXAMPLES = """examples:
  kanserve health --timeout 4
  kanserve health --service digits
"""
EXITS = exit_codes_of(DONE="the server or the model is ready", FAILED="it is not ready, or the server does not respond")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    option(
        parser, "--service", "NAME", "name of a model, or liveness for the process only", "", shown="the whole server"
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when serving. Raises CommandError, with exit code 1 for a server that is not."""
    with session.connection(args, model=args.service) as client:
        state = client.health(args.service)
    if state != "SERVING":
        raise CommandError(
            f"{args.service or 'the server'} at {args.url} is {state}, expected SERVING",
            code="not-serving",
            hint=f"list the state of each model: `kanserve models --url {args.url}`",
            kind="NotServing",
            exit_code=Exit.FAILED,
        )
    return print_result(args, {"url": args.url, "service": args.service, "state": state}, state)
