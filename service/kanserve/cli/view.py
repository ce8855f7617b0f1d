"""Command `kanserve view FOLDER`: the web UI over a repository that no server serves."""

from __future__ import annotations

import argparse
import contextlib
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from kanexport.shared.cli.console import Exit, note
from kanserve.cli import session
from kanserve.cli.options import CommandError, add_json_option, flag

TEXT = """Open the web UI for a local repository or checkpoint.

The command serves the models on free ports of 127.0.0.1 until Ctrl-C. It exports a checkpoint to a temporary folder
first, and removes the folder at the end.
"""
EXAMPLES = """examples:
  kanserve view models
  kanserve view tests/golden/checkpoints/pykan-hello-adapted/model
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("folder", metavar="FOLDER", help="model repository, or the path of a checkpoint")
    flag(parser, "--no-browser", "print the address without opening a browser")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; returns 0. Raises CommandError."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            _models(args.folder) as (models, name),
            tempfile.TemporaryDirectory(prefix="kanserve-") as folder,
            session.started(models, Path(folder) / "log", "--transport", "asgi") as server,
        ):
            where = session.ui_address(server["grpc"], *([name] if name else []))
            session.show(where, browser=not args.no_browser, as_json=args.json)
            note("press Ctrl-C to stop the server")
            ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Exit.DONE


@contextlib.contextmanager
def _models(path: str) -> Iterator[tuple[Path, str]]:
    """The repository, and the name of the one model to show, or ""."""
    if Path(path).is_dir():
        yield Path(path), ""
        return
    if not session.is_here(path):
        raise CommandError(
            f"{path} is neither a folder nor a checkpoint",
            code="repository-not-a-folder",
            hint="pass a repository of `kanserve export --repository FOLDER`, or a checkpoint",
            exit_code=Exit.WRONG,
        )
    with session.exported(path, None, then="serving it") as (folder, name):
        yield folder / session.MODELS, name
