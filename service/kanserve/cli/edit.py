"""Command `kanserve edit`: the command of the exporter, and its report as an HTML page (`--report`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kanexport.shared import atomic
from kanexport.shared.cli import suggest
from kanexport.shared.cli.console import note
from kanexport.shared.naming import Names
from kanserve.cli.options import CommandError, option
from kanserve.report import edit_content, page
from kanserve.tables import output_results

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
    text = "write the difference report to this file, as one HTML page without external resources"
    option(parser, REPORT, "FILE.html", text, shown="none")


def with_report(args: argparse.Namespace, command: Callable[..., int]) -> int:
    """The exit code of a command of the exporter, which writes a page if the user names a file. Raises ExportError and
    CommandError."""
    output_results.check(args.report, (".html",), REPORT)

    def write(document: dict[str, Any], names: Names) -> None:
        text = page.html(edit_content.report(document, names))
        try:
            with output_results.writing(args.report):
                atomic.write(Path(args.report), text.encode())
        except CommandError as error:
            if document["directory"]:
                error.hint += f"; the new version is in {document['directory']}"
            raise
        note(f"{args.report}: report")

    return command(args, None if args.report is None else write)
