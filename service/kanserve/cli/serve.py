"""Command `kanserve serve REPOSITORY`: the server, from its settings to the signal that ends it."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanexport.shared.cli import suggest
from kanexport.shared.cli.console import MEANINGS, Exit, exit_codes_of, print_json
from kanexport.shared.cli.tables import Table
from kanserve.cli.doctor import check_results
from kanserve.cli.doctor.check_results import Finding, problem, well
from kanserve.cli.options import CommandError, add_json_option, flag
from kanserve.config import settings as settings_schema
from kanserve.config import sources
from kanserve.config.reference import value_text
from kanserve.config.reload import Reload
from kanserve.errors import ConfigError, KanserveError
from kanserve.observability import logs
from kanserve.version import version

log = logs.get_logger("app")

CORRECT = "correct the settings"

TEXT = """Serve the models of a repository over gRPC and REST until SIGTERM or Ctrl-C.

Each setting is a flag, an environment variable (KANSERVE_GRPC_PORT for --grpc-port) and a key of the file that
--config names. Flags override variables, and variables override the file.
"""
EXAMPLES = """examples:
  kanserve serve models
  kanserve serve models --show-config                             # print each setting and its source
  kanserve serve models --check                                   # check files, models, ports and limits
  kanserve serve models --grpc-port 9001 --metrics-port 9002
"""
EXITS = exit_codes_of(
    FAILED="the server or one of its worker processes failed",
    WRONG="invalid command line or settings, or --check found a problem",
    HUNG=MEANINGS[Exit.HUNG].removeprefix("serve: "),
    TERMINATED=MEANINGS[Exit.TERMINATED].removeprefix("serve: "),
    DONE="graceful shutdown after SIGTERM or SIGINT",
    INTERRUPTED="interrupted with Ctrl-C before the server started",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command: one per setting, named as the setting is."""
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}  # a flag overrides the file only if it was given
    parser.add_argument(
        "repository",
        nargs="?",
        metavar="REPOSITORY",
        help="folder of models, NAME/VERSION/model.onnx (default: KANSERVE_REPOSITORY, otherwise the key in the file)",
        **absent,
    )
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="file with settings, TOML (default: none)")
    flag(parser, "--check", "check settings, certificates, ports, host and models, print the findings and exit")
    flag(parser, "--show-config", "print each setting with its source and exit")
    groups: dict[str, Any] = {}
    for name, about in settings_schema.flags().items():
        if about.group not in groups:
            groups[about.group] = parser.add_argument_group(about.group)
        # No metavar is a switch. One such as "cpu|cuda" is a choice; a word in capitals stands for other values.
        kind: dict[str, Any] = (
            {"metavar": about.metavar} if about.metavar else {"action": argparse.BooleanOptionalAction}
        )
        if "|" in about.metavar and about.metavar.islower():
            kind["choices"] = about.metavar.split("|")
        long = f"--{name.replace('_', '-')}"
        field = settings_schema.Settings.model_fields[name]
        default = value_text(field.default, about.metavar)
        if isinstance(field.default, bool):
            default = "on" if field.default else "off"
        elif about.metavar == "BYTES":
            default = default.replace(" ", "")  # a flag accepts it in this form
        groups[about.group].add_argument(
            long, help=f"{field.description} (default: {default})".replace("%", "%%"), **kind, **absent
        )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises CommandError."""
    names = ("repository", *settings_schema.flags())
    flags = {name: getattr(args, name) for name in names if hasattr(args, name)}
    try:
        loaded = sources.load(flags, config=args.config)
    except ConfigError as error:
        if args.check:
            return _report_findings([problem("settings", str(error), error.hint or CORRECT)], as_json=args.json)
        raise _ended(error) from error
    if args.check:
        from kanserve.cli.doctor.config_checks import ahead  # a server does not need it

        return _report_findings(list(ahead(loaded)), as_json=args.json)
    if args.show_config:
        values = loaded.settings.model_dump(mode="json")
        if args.json:
            print_json({name: {"value": values[name], "origin": loaded.origins[name]} for name in values})
            return Exit.DONE
        table = Table("settings", ("setting", "value", "source"))
        for name, value in values.items():
            table.add(name, str(value), loaded.origins[name])
        table.show()
        return Exit.DONE
    settings = loaded.settings

    def announce(addresses: Mapping[str, str]) -> None:
        """The line of `--json` once the server is ready, for scripts that use port 0."""
        print_json({"state": "serving", **addresses, "pid": os.getpid()})

    logs.configure(settings.log_format, settings.log_level)
    try:
        again = Reload(settings, lambda: sources.load(flags, config=args.config).settings)
        # Before the slow steps: the server imports the runtime, then loads models.
        log.info(
            "server_starting",
            version=version(),
            pid=os.getpid(),
            repository=str(settings.repository),
            workers=settings.workers,
        )
        module = "kanserve.server.supervisor" if settings.workers > 1 else "kanserve.server.app"
        serve = suggest.load("serve", module, "serve").serve
        last = suggest.load("serve", "kanserve.server.watchdog", "serve").last
        return int(asyncio.run(last(serve(settings, announce if args.json else None, changes=again))))
    except KanserveError as error:
        raise _ended(error) from error
    finally:
        logs.release()


def _report_findings(findings: list[Finding], *, as_json: bool) -> int:
    """Print the findings as `--check` does, and return the exit code."""
    if as_json:
        print_json(check_results.document(findings))
    else:
        check_results.show("checks before the start", findings)
    return Exit.DONE if well(findings) else Exit.WRONG


def _ended(error: KanserveError) -> CommandError:
    """The server's error as a CommandError. Exit code 2 means that the settings are wrong."""
    exit_code = Exit.WRONG if isinstance(error, ConfigError) else Exit.FAILED
    return CommandError(str(error), code=error.code, hint=error.hint, kind=type(error).__name__, exit_code=exit_code)
