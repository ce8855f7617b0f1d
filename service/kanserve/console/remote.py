"""What the client commands share: a connection, its errors as exit codes, progress."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kanserve.client import bulk
from kanserve.client.connection import Client, ClientError
from kanserve.console.common import FAILED, WRONG, CommandError


@contextlib.contextmanager
def connection(args: argparse.Namespace) -> Iterator[Client]:
    """A client for `--url`; its errors become CommandError with the right exit code."""
    try:
        with Client(args.url, timeout=args.timeout) as client:
            yield client
    except ClientError as error:
        raise CommandError(str(error), exit_code=WRONG if error.input_is_wrong else FAILED) from error


@contextlib.contextmanager
def progress(what: str) -> Iterator[bulk.Progress | None]:
    """A bar on stderr from the second request on; None unless stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} rows"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=done < total)

        yield report
