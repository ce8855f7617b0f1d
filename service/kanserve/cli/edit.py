"""Command `kanserve edit`: the command of the exporter, and its report as an HTML page (`--report`)."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kanexport.shared import atomic
from kanexport.shared.cli import suggest
from kanexport.shared.cli.console import note
from kanexport.shared.naming import Names
from kanserve.cli import output_results
from kanserve.report import edit_content, page

COMMAND = suggest.load("edit", "kanexport.cli.edit_command", "export")
REPORT = "--report"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    COMMAND.configure(parser)
    add_report(parser)


def run(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises ExportError and CommandError."""
    return with_report(args, COMMAND.run)


def add_report(parser: argparse.ArgumentParser) -> None:
    """`--report`, of a command that changes edges."""
    parser.add_argument(
        REPORT,
        metavar="FILE.html",
        help="write the difference report to this file, as one HTML page without external resources (default: none)",
    )


def with_report(args: argparse.Namespace, command: Callable[..., int]) -> int:
    """The exit code of a command of the exporter, which writes a page if the user names a file. Raises ExportError and
    CommandError."""
    output_results.check(args.report, (".html",), REPORT)
    return command(args, None if args.report is None else functools.partial(_write, args.report))


def _write(file: str, document: dict[str, Any], names: Names) -> None:
    """Write the page. Raises CommandError, which names the version that the command has written."""
    text = page.html(edit_content.report(document, names))
    try:
        atomic.write(Path(file), text.encode())
    except OSError as error:
        ended = output_results.not_written(file, error)
        if document["directory"]:
            ended.hint += f"; the new version is in {document['directory']}"
        raise ended from error
    note(f"{file}: report")
