"""Command `kanserve shadow NAME [VERSION]`: shadow deployment of another version, with a report of output
differences."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanexport.contract.cli.console import Exit, print_json, say
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_name
from kanserve.client import control

EXAMPLES = """examples:
  kanserve promote digits 2                      version 2 answers
  kanserve shadow digits 3 --share 0.1           a tenth of the requests go through version 3 as well
  kanserve shadow digits                         what came of it until now
  kanserve shadow digits --stop

Nobody gets the answers of the version that is tried, and nobody waits for them: what is too much is dropped and
counted.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = EXAMPLES
    add_name(parser)
    parser.add_argument("version", metavar="VERSION", nargs="?", default="", help="a version that does not answer")
    parser.add_argument("--share", type=float, default=0.0, metavar="PART", help="of the requests (all)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="a row is beyond it that differs by more than X of its answer's largest, or of 1 (as its export allowed)",
    )
    parser.add_argument("--stop", action="store_true", help="end it, and tell what came of it")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    with session.connection(args, model=args.name) as client:
        report = control.shadow(
            client, args.name, args.version, share=args.share, tolerance=args.tolerance, stop=args.stop
        )
    if args.json:
        print_json(asdict(report))
        return Exit.DONE
    state = "runs" if report.running else "has stopped"
    say(
        f"{report.model}: the shadow of version {report.version} {state}; baseline version {report.baseline_version}, "
        f"{report.share:.0%} of the requests"
    )
    part = report.rows_out_of_tolerance / report.rows if report.rows else 0.0
    say(
        f"{report.rows} rows of {report.requests} requests, {report.rows_out_of_tolerance} ({part:.2%}) out of "
        f"tolerance {report.tolerance:.3g}"
    )
    say(f"largest difference {report.largest_difference:.3g}, relative to the largest output of a row, or to 1")
    if report.requests_dropped or report.requests_failed:
        say(f"{report.requests_dropped} requests were dropped, {report.requests_failed} failed")
    return Exit.DONE
