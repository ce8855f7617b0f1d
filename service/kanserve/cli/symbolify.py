"""Command `kanserve symbolify`: the command of the exporter, and its report as an HTML page (`--report`)."""

from __future__ import annotations

import argparse

from kanexport.shared.cli import suggest
from kanserve.cli import edit

COMMAND = suggest.load("symbolify", "kanexport.cli.symbolify_command", "export")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    COMMAND.configure(parser)
    edit.add_report(parser)


def run(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises ExportError and CommandError."""
    return edit.with_report(args, COMMAND.run)
