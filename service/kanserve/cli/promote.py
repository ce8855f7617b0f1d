"""Command `kanserve promote NAME [VERSION]`: choice of the default version of a model."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from typing import Any

from kanexport.shared.cli.console import Exit, exit_codes_of, print_json, say
from kanserve.cli import default_file, inventory, session
from kanserve.cli.options import (
    CommandError,
    InputError,
    add_client_options,
    add_name,
    index,
    invalid,
    option,
    print_result,
)
from kanserve.client import control
from kanserve.client.rollout import Limits, Rollout, Stopped

TEXT = """Set the default version of a model: the version for requests that name none.

Without --repository, the command changes one server. The choice lasts until that server exits, and newer versions do
not change it. With --repository, the command writes the file FOLDER/NAME/default. Without VERSION, it removes the file.
Each server that serves the folder reads the file at its next scan, and again after a restart. A changed file replaces
an earlier choice on a server. `kanserve rollback NAME` restores the previous default version.

With --waves and the addresses of several servers, the command changes them wave by wave. In each wave, VERSION first
runs as a shadow until --rows rows are compared. Then it serves until --rows rows are served. The command stops, and
restores the previous default version on each server, for rows out of tolerance, more failed requests than before, drift
from the baseline of VERSION only, a server that does not respond, and Ctrl-C. With --repository too, it writes the file
after the last wave.
"""
EXAMPLES = """examples:
  kanserve promote digits 1
  kanserve promote digits                                         # the highest version that is ready
  kanserve promote digits 1 --repository models                   # on each server of the folder
  kanserve promote digits 2 --waves 25%,100% --url dns:///kanserve.models.svc:8001
"""


EXITS = exit_codes_of(FAILED="a wave was stopped and rolled back, or another failure")


def percents(text: str) -> tuple[int, ...]:
    """An argparse type: ascending shares in percent. The last is 100%."""
    words = [word.strip() for word in text.split(",")]
    shares = tuple(int(word[:-1]) for word in words if re.fullmatch(r"[0-9]{1,3}%", word))
    if len(shares) < len(words) or [0, *shares] != sorted({0, *shares}) or shares[-1] != 100:
        raise invalid(text, "ascending shares up to 100%, such as 25%,100%")
    return shares


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_name(parser)
    parser.add_argument(
        "version",
        metavar="VERSION",
        nargs="?",
        default="",
        help="version number (default: the highest version that is ready and not an edit, now and after each update)",
    )
    default_file.add_repository_option(parser)
    text = "shares of the servers at --url that have VERSION after each wave, such as 25%%,100%%"
    option(parser, "--waves", "PERCENT,...", text, (), type=percents, shown="none, one server")
    option(
        parser, "--rows", "N", "rows that each wave compares, and then serves, before the next wave", 1000, type=index
    )
    text = "largest difference of a row in the waves, as in `kanserve shadow`; 0: the tolerance of the export"
    option(parser, "--tolerance", "X", text, 0.0, type=float)
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 after the change. Raises CommandError, also for a wave that was stopped and rolled back."""
    default_file.check_target(args)
    if args.waves:
        return _roll_out(args)
    if args.repository is not None:
        choice = default_file.promote(args.repository, args.name, args.version)
    else:
        with session.connection(args, model=args.name) as client:
            choice = control.promote(client, args.name, args.version)
    text = f"{choice.model}: default version {choice.version}, previously {choice.previous_version or 'none'}"
    return print_result(args, asdict(choice), text)


def _roll_out(args: argparse.Namespace) -> int:
    if not args.version:
        raise InputError("--waves needs a version", code="argument-missing", hint="pass VERSION after the name")
    if args.repository is not None:
        inventory.version(args.repository, args.name, args.version)  # an error now, and not after the last wave

    def report(event: str, text: str, **facts: Any) -> None:
        if args.json:
            print_json({"event": event, "model": args.name, "version": args.version, **facts})
        else:
            say(text)

    with session.connections(args, model=args.name) as clients:
        rollout = Rollout(clients, args.name, args.version, Limits(max(args.rows, 1), args.tolerance), report)
        try:
            rollout.run(args.waves)
        except Stopped as stop:
            raise CommandError(
                f"the rollout of {args.name} version {args.version} stopped: {stop}",
                code="rollout-stopped",
                hint="correct the cause, and run it again; for an expected difference, pass a larger --tolerance",
                exit_code=Exit.FAILED,
            ) from stop
    if args.repository is not None:
        default_file.promote(args.repository, args.name, args.version)
    text = f"{args.name}: default version {args.version} on {len(clients)} servers"
    report("done", text, servers=list(clients), repository=args.repository and str(args.repository))
    return Exit.DONE
