"""Failure output of a command: exit codes, one JSON document, one text.

    {"error": {"kind": "NotFound", "code": "model-unknown", "message": "unknown model: 'digit'",
               "hint": "use 'digits'", "exit_code": 2}}

    kanserve infer: error[model-unknown]: unknown model: 'digit'
      help: use 'digits'

`docs/reference/errors.md` lists all codes.

The text goes to stderr; with `--json`, the document goes to stdout as well.
Standard library only.
"""

from __future__ import annotations

import enum
import json
import math
import re
import sys
from typing import Any


class Exit(enum.IntEnum):
    """Exit codes of a process. `EXIT_CODES` is the same table as text."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    UNPROVED = 3
    PARTLY = 4
    INTERRUPTED = 130


MEANINGS: dict[int, str] = {
    Exit.DONE: "success",
    Exit.FAILED: "failure outside the input, such as a server that does not respond",
    Exit.WRONG: "invalid input or command line",
    Exit.UNPROVED: "the verification of the export failed",
    Exit.PARTLY: "export --recursive: a checkpoint was rejected, or an option was unused",
    70: "serve: the watchdog ended a hung server",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
    143: "ended by SIGTERM (serve: by the second one)",
}
EXIT_CODES = "exit codes:\n" + "\n".join(f"  {code:<4}{meaning}" for code, meaning in MEANINGS.items())


class Failure(Exception):
    """Expected end of a command with an error.

    message  the thing, the value found, and the value expected
    code     stable id of the error, such as "file-not-found"; without one, the class name in lower case
    hint     the action that solves the problem, or empty
    kind     a name for scripts: the class, unless another is given
    """

    exit_code: int = Exit.WRONG
    code: str = ""

    def __init__(
        self, message: str, *, code: str = "", hint: str = "", kind: str = "", exit_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind or type(self).__name__
        self.code = code or self.code or kebab(self.kind)
        if exit_code is not None:
            self.exit_code = exit_code


def kebab(name: str) -> str:
    """A class name as an error code: "NotFound" is "not-found"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def facts(failure: Failure) -> dict[str, Any]:
    """One failure for machines: kind, code, message, hint, exit_code."""
    return {
        "kind": failure.kind,
        "code": failure.code,
        "message": failure.message,
        "hint": failure.hint,
        "exit_code": int(failure.exit_code),
    }


def document(failure: Failure) -> dict[str, Any]:
    """The JSON document that a command prints with `--json` in place of its result."""
    return {"error": facts(failure)}


def text(program: str, failure: Failure) -> str:
    """The text that a command prints to stderr; `program` is such as "kanserve export"."""
    lines = [f"{program}: error[{failure.code}]: {printable(failure.message)}"]
    if failure.hint:
        lines.append(f"  help: {printable(failure.hint)}")
    return "\n".join(lines)


def printable(raw: str) -> str:
    """The text without control characters and line breaks: names from a file do not control the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in raw)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout. NaN and infinities become strings, because JSON has no such numbers."""
    emit(json_text(document) + "\n")


def json_text(document: Any, *, indent: int | None = None) -> str:
    """A document as JSON that every parser accepts."""
    return json.dumps(jsonable(document), allow_nan=False, indent=indent)


def emit(text: str) -> None:
    """Write the whole text to stdout. Under PYTHONUNBUFFERED, print() drops the part that a pipe does not accept at
    once."""
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a program that runs a command may replace stdout
        sys.stdout.write(text)
        return
    with open(descriptor, "wb", closefd=False) as out:
        out.write(text.encode(errors="backslashreplace"))


def say(text: str, *, indent: int = 0) -> None:
    """Print a line to stdout. Long lines are not folded, so that a path can be copied as a whole."""
    emit(f"{' ' * indent}{printable(text)}\n")


def note(text: str) -> None:
    """Print a line to stderr."""
    print(printable(text), file=sys.stderr)


def jsonable(value: Any) -> Any:
    """Convert tuples to lists, and non-finite floats to "NaN", "Infinity" and "-Infinity"."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
