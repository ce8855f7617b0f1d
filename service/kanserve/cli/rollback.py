"""Command `kanserve rollback NAME`: return to the previous default version."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kanserve.cli import default_file, session
from kanserve.cli.options import add_client_options, add_name, print_result
from kanserve.client import control

TEXT = """Restore the default version that a model had before the last `kanserve promote`.

Without an earlier promote, the next lower version that is not an edit becomes the default version. Without
--repository, the command changes one server. The choice lasts until that server exits, or until the next `kanserve
promote`. With --repository, the command writes the file FOLDER/NAME/default. Each server that serves the folder reads
the file at its next scan, and again after a restart.
"""
EXAMPLES = """examples:
  kanserve rollback digits
  kanserve rollback digits --repository models                    # on each server of the folder
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_name(parser)
    default_file.add_repository_option(parser)
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 after the change. Raises CommandError."""
    default_file.check_target(args)
    if args.repository is not None:
        choice = default_file.rollback(args.repository, args.name)
    else:
        with session.connection(args, model=args.name) as client:
            choice = control.rollback(client, args.name)
    text = f"{choice.model}: default version {choice.version} restored, previously {choice.previous_version}"
    return print_result(args, asdict(choice), text)
