"""Command `kanserve shadow NAME [VERSION]`: shadow deployment of another version, with a report of output
differences."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanexport.shared.cli.console import note, print_json, say
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_name, flag, option
from kanserve.client import control, fleet

TEXT = """Mirror traffic to another version of a model (shadow deployment), and report how much its outputs differ.

Clients get the responses of the default version only, and do not wait for the shadow version. The server drops and
counts mirrored requests that it has no capacity for. Without VERSION, the command reports the results up to now. With
the addresses of several servers, the command starts or stops the shadow on each, and adds their results.
"""
EXAMPLES = """examples:
  kanserve promote digits 1
  kanserve shadow digits 2 --share 0.1                            # mirror 10% of the requests to version 2
  kanserve shadow digits                                          # report the results
  kanserve shadow digits --stop
  kanserve shadow digits --url dns:///kanserve.models.svc:8001    # the sum of all servers of the name
"""
EXITS = session.EXITS_OF_SEVERAL


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_name(parser)
    parser.add_argument(
        "version",
        metavar="VERSION",
        nargs="?",
        default="",
        help="version that gets the mirrored requests (default: none, report the running shadow version)",
    )
    option(parser, "--share", "SHARE", "share of requests to mirror, above 0 up to 1", 1.0, type=float)
    text = "largest difference of a row, relative to its largest output or to 1; 0: the tolerance of the export"
    option(parser, "--tolerance", "X", text, 0.0, type=float)
    flag(parser, "--stop", "stop the shadow version and report the results")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if a server of several did not reply. Raises CommandError."""
    if args.share == 0:
        note("warning: --share 0 mirrors all requests; write --share 1")
    options = {"share": args.share or 1.0, "tolerance": args.tolerance, "stop": args.stop}
    with session.connections(args, model=args.name) as clients:
        replies = fleet.ask(clients, lambda each: control.shadow(each, args.name, args.version, **options))
        report = fleet.added_shadows(replies)
    if args.json:
        print_json(asdict(report) | session.document_of_several(replies))
    else:
        state = "running" if report.running else "stopped"
        say(
            f"{report.model}: shadow version {report.version} {state}; baseline version {report.baseline_version}, "
            f"{report.share:.0%} of the requests"
        )
        part = report.rows_out_of_tolerance / report.rows if report.rows else 0.0
        say(
            f"{report.rows} rows of {report.requests} requests, {report.rows_out_of_tolerance} ({part:.2%}) out of "
            f"tolerance {report.tolerance:.3g}"
        )
        if report.rows_with_other_class is not None:
            part = report.rows_with_other_class / report.rows if report.rows else 0.0
            say(f"{report.rows_with_other_class} rows ({part:.2%}) with another class: another output is the largest")
        say(f"largest difference {report.largest_difference:.3g}, relative to the largest output of a row, or to 1")
        if report.requests_dropped or report.requests_failed:
            say(f"{report.requests_dropped} requests dropped, {report.requests_failed} failed")
    return session.end_of_several(replies)
