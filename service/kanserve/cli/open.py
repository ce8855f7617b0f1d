"""Command `kanserve open NAME`: the web UI page of a served KAN, in the browser."""

from __future__ import annotations

import argparse
import contextlib
import re

from kanexport.shared.cli.console import Exit
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_model_options, flag, option
from kanserve.client.errors import NotAllowed

TEXT = """Open the page of a served model in the web UI, and print its address. The page shows the network, each edge,
the traffic and the explanation of a prediction.
"""
EXAMPLES = """examples:
  kanserve open digits
  kanserve open digits 0:10:3                                     # one edge: LAYER:SOURCE:DESTINATION
  kanserve open digits --no-browser                               # only print the address
"""
EDGE = re.compile(r"\d+:\d+:\d+")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser)
    parser.add_argument(
        "view", nargs="?", default="", metavar="VIEW", help="edge L:S:D, or page below /ui/NAME/ (default: the network)"
    )
    text = "HTTP address of the server, if it has a separate HTTP port"
    option(parser, "--page", "HOST:PORT", text, "", shown="the address of --url")
    flag(parser, "--no-browser", "print the address without opening a browser")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    with session.connection(args, model=args.name) as client, contextlib.suppress(NotAllowed):
        client.model(args.name, args.model_version)  # the browser may have another token
    secure = args.url.startswith(session.SECURE) or bool(args.ca or args.cert)
    view = f"edge/{args.view.replace(':', '/')}" if EDGE.fullmatch(args.view) else args.view
    where = session.ui_address(
        args.page or args.url, args.name, *filter(None, view.split("/")), secure=secure, version=args.model_version
    )
    session.check(where, args.timeout)
    session.show(where, browser=not args.no_browser, as_json=args.json)
    return Exit.DONE
