"""`kanserve stats NAME`: what a model is asked, and what becomes of it inside."""

from __future__ import annotations

import argparse

from kanexport.shared.output import note, print_json, say
from kanexport.shared.voice import Exit
from kanserve.client.connection import Client
from kanserve.client.description import Description
from kanserve.client.statistics import Statistics
from kanserve.console import remote, stats_table
from kanserve.console.common import add_client_options, add_model_options, index, positive_seconds

TEXT = """Say what a model's traffic is: of its inputs, the nodes inside and its answers how many values lie inside the
grid, on its extension and outside, and which answers came how often. Needs no baseline; whether
this is as it was when the model was made says `kanserve drift`.
"""
EXAMPLES = """examples:
  kanserve stats wine
  kanserve stats wine --latest --show 40
  kanserve stats wine --watch --interval 5
  kanserve stats wine --json
  kanserve stats wine --reset                    counts anew from now on (role admin)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="again and again, until the version is replaced or Ctrl-C")
    how.add_argument("--reset", action="store_true", help="count anew, and print nothing else")
    parser.add_argument("--latest", action="store_true", help="the latest rows alone, some hundreds")
    parser.add_argument(
        "--interval", type=positive_seconds, default=2.0, metavar="S", help="seconds between two looks of --watch (2)"
    )
    parser.add_argument("--updates", type=index, default=0, metavar="N", help="looks of --watch (no limit)")
    parser.add_argument("--show", type=index, default=8, metavar="N", help="nodes, and classes, in the tables (8)")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    with remote.connection(args, model=args.name) as client:
        if args.reset:
            _reset(client, args)
        elif args.watch:
            _watch(client, args)
        else:
            found = client.statistics(args.name, args.model_version, over=_over(args))
            _show(client.describe(args.name, found.version), found, args)
    return Exit.DONE


def _over(args: argparse.Namespace) -> str:
    return "live" if args.latest else "total"


def _reset(client: Client, args: argparse.Namespace) -> None:
    since = client.reset_statistics(args.name, args.model_version)
    if args.json:
        print_json({"model": args.name, "since": since})
    else:
        say(f"{args.name}: counted anew")


def _watch(client: Client, args: argparse.Namespace) -> None:
    """A document a line, or tables one below the other."""
    updates = client.watch_statistics(
        args.name, args.model_version, over=_over(args), interval=args.interval, updates=args.updates
    )
    described: Description | None = None  # the version may be gone with the last update
    for update in updates:
        described = described or client.describe(args.name, update.statistics.version)
        if args.json:
            print_json(stats_table.document(described, update.statistics) | {"ended": update.ended})
        else:
            _show(described, update.statistics, args)
        if update.ended and not args.json:
            note(f"no more: {update.ended}")


def _show(described: Description, found: Statistics, args: argparse.Namespace) -> None:
    if args.json:
        print_json(stats_table.document(described, found))
        return
    for table in stats_table.tables(described, found, args.show):
        table.show()
