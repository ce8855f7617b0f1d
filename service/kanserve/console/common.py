"""What the commands share: their one error, their options, their way of printing. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from typing import Any

# On one machine, client and server are configured by the same variables.
DEFAULT_URL = os.environ.get("KANSERVE_URL") or f"127.0.0.1:{os.environ.get('KANSERVE_GRPC_PORT', '8001')}"
FAILED = 1
WRONG = 2


class CommandError(Exception):
    """A command that ends here. `exit_code`: 2 the input or the command is wrong, 1 anything else."""

    def __init__(self, text: str, *, exit_code: int = WRONG) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`--json`, which every command has."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """`--url`, `--timeout` and `--json`."""
    parser.add_argument(
        "--url",
        default=DEFAULT_URL,
        metavar="HOST:PORT",
        help="the server's gRPC address (default: KANSERVE_URL, here %(default)s)",
    )
    parser.add_argument("--timeout", type=positive_seconds, default=30.0, metavar="S", help="seconds for one call (30)")
    add_json_option(parser)


def positive_seconds(text: str) -> float:
    """An argparse type."""
    value = float(text)
    if not 0 < value < 86400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds between 0 and 86400")
    return value


def index(text: str) -> int:
    """An argparse type: a count or an index, 0 and up."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0")
    return value


def note(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr)


def print_json(document: Any) -> None:
    """One JSON document on stdout. NaN and infinities become strings: JSON has no such numbers."""
    emit(json.dumps(jsonable(document), allow_nan=False) + "\n")


def emit(text: str) -> None:
    """Text to stdout, all of it: under PYTHONUNBUFFERED, print() drops what a pipe does not take at once."""
    sys.stdout.flush()
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(text.encode())


def jsonable(value: Any) -> Any:
    """Tuples to lists, non-finite floats to "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
