"""Command `kanserve doctor`: faults of the machine, a repository, the settings and a running server."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kanexport.shared.cli.console import CodedError, Exit, exit_codes_of, print_json
from kanserve.cli import session
from kanserve.cli.doctor import check_results, machine_checks, server_checks
from kanserve.cli.doctor.check_results import Finding, ok, problem, well
from kanserve.cli.doctor.config_checks import ahead
from kanserve.cli.doctor.server_checks import Source
from kanserve.cli.options import CommandError, add_client_options, option, token
from kanserve.client import base, targets
from kanserve.client.base import Tls
from kanserve.config import sources
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError

TEXT = """Diagnose the host, models and settings, and print what to do about each problem.

kanserve checks Python and its packages, the runtime, threads, open files, the clock, settings, certificates and ports.
With REPOSITORY it checks each model version, and with --url a running server. The command changes nothing.
"""
EXAMPLES = """examples:
  kanserve doctor                                                 # this host and the settings in the environment
  kanserve doctor models                                          # also the models of a repository
  kanserve doctor --url 127.0.0.1:8001                            # also a running server
"""
EXITS = exit_codes_of(FAILED="at least one finding is a problem")
PORT = 8002  # default port of metrics


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "repository", nargs="?", metavar="REPOSITORY", help="model repository to check (default: that of the settings)"
    )
    option(parser, "--config", "FILE.toml", "file with settings of a server, TOML", type=Path, shown="none")
    add_client_options(parser, url="")
    text = "address of the server's metrics"
    option(parser, "--metrics", "HOST:PORT", text, shown=f"the address of --url, then port {PORT} of the same host")


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if a finding is a problem."""
    findings = list(_findings(args))
    if args.json:
        print_json(check_results.document(findings))
    else:
        check_results.show("", findings)
    return Exit.DONE if well(findings) else Exit.FAILED


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    yield from machine_checks.installation()
    yield machine_checks.clock()
    flags: dict[str, Any] = {"repository": Path(args.repository)} if args.repository else {}
    try:
        loaded = sources.load(flags, config=args.config, without={"repository": Path()})
    except ConfigError as error:
        yield problem("settings", str(error), error.hint or "correct the settings")
    else:
        here = not args.url and _runs_here(loaded.settings)
        if here:
            yield ok("server", "a server on this machine has these ports; pass --url to check it")
        yield from ahead(loaded, running=bool(args.url) or here)
    if args.url:
        try:
            targets.require_single(args.url, "kanserve doctor")
            with session.connection(args) as client:
                if args.metrics:
                    pages = [Source(args.metrics)]
                else:  # first the port of the request, which belongs to the server, then port 8002
                    tls = Tls.from_files(args.ca, args.cert, args.key, args.server_name)
                    secure = base.is_secure(args.url, tls)
                    shown = dict(base.carried(token(args), args.url, secure=secure, in_clear=args.token_in_clear))
                    shared = args.url.rpartition("//")[2]
                    own = Source(shared, tls if secure else None, shown)
                    pages = [own, Source(f"{shared.rpartition(':')[0]}:{PORT}")]
                yield from server_checks.check_server(client, pages)
        except CodedError as error:
            yield problem("server", str(error), error.hint)
        except CommandError as error:
            yield problem("server", error.message, error.hint)


def _runs_here(settings: Settings) -> bool:
    """Whether a server of this machine already has the metrics port of the settings, as in its own container."""
    host = "127.0.0.1" if settings.metrics_host in ("0.0.0.0", "[::]", "::") else settings.metrics_host
    try:
        return bool(settings.metrics_port and Source(f"{host}:{settings.metrics_port}").read())
    except (OSError, ValueError):
        return False
