"""Failure output of a command: exit codes, one JSON document, one text.

    {"error": {"kind": "NotFound", "code": "model-unknown", "message": "unknown model: 'digit'",
               "hint": "did you mean 'digits'?", "exit_code": 2}}

    kanserve infer: error[model-unknown]: unknown model: 'digit'
      help: did you mean 'digits'?

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
from collections.abc import Mapping
from typing import Any


class Exit(enum.IntEnum):
    """Exit codes of a process. `EXIT_CODES` is the same table for people."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    UNPROVED = 3
    PARTLY = 4
    HUNG = 70
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS = {
    Exit.DONE: "success",
    Exit.FAILED: "another failure, such as a server that does not respond",
    Exit.WRONG: "invalid input or command line",
    Exit.UNPROVED: "export: the verification failed",
    Exit.PARTLY: "export --recursive: a file was rejected, or no file used one of the options",
    Exit.HUNG: "serve: the watchdog ended a hung server",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
    Exit.TERMINATED: "serve: a second SIGTERM or SIGINT ended the graceful shutdown early",
}
COMMON = (Exit.DONE, Exit.FAILED, Exit.WRONG, Exit.INTERRUPTED)  # codes that every command has


def exit_codes(codes: Mapping[Exit, str] = MEANINGS) -> str:
    """Table of exit codes for a help text."""
    return "exit codes:\n" + "\n".join(f"  {code:<4}{meaning}" for code, meaning in sorted(codes.items()))


def exit_codes_of(**special: str) -> str:
    """Table of the exit codes of one command: the common ones, and `special` meanings by name, such as FAILED."""
    return exit_codes({**{code: MEANINGS[code] for code in COMMON}, **{Exit[name]: special[name] for name in special}})


EXIT_CODES = exit_codes()


class Failure(Exception):
    """Expected end of a command with an error.

    message  the thing, the value found, and the value expected
    code     stable id of the error, such as "file-not-found"; without one, the class name in kebab case
    hint     the action that solves the problem, or empty
    kind     a name for scripts: the class, unless it or the call has another
    """

    exit_code: int = Exit.WRONG
    code: str = ""
    hint: str = ""
    kind: str = ""

    def __init__(
        self, message: str, *, code: str = "", hint: str = "", kind: str = "", exit_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.hint
        self.kind = kind or self.kind or type(self).__name__
        self.code = code or self.code or kebab(self.kind)
        if exit_code is not None:
            self.exit_code = exit_code


class CodedError(ValueError):
    """Invalid value or file, with a code and a hint that a caller keeps if it converts the error.

    code  stable id of the error, such as "csv-not-a-number"; without one, the class name in kebab case
    hint  the action that solves the problem, or empty
    """

    code: str = ""
    hint: str = ""

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code or kebab(type(self).__name__)
        self.hint = hint or self.hint


def kebab(name: str) -> str:
    """A class name as an error code: "NotFound" is "not-found"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def out_of_memory(error: Exception) -> bool:
    """Whether an error is a failed allocation, in Python or in native code such as onnxruntime."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in ("bad_alloc", "Failed to allocate"))


def document(failure: Failure) -> dict[str, Any]:
    """The JSON document that a command prints with `--json` in place of its result."""
    facts = {name: getattr(failure, name) for name in ("kind", "code", "message", "hint")}
    return {"error": facts | {"exit_code": int(failure.exit_code)}}


def text(program: str, failure: Failure) -> str:
    """The text that a command prints to stderr; `program` is such as "kanserve export"."""
    lines = [f"{program}: error[{failure.code}]: {printable(failure.message)}"]
    if failure.hint:
        lines.append(f"  help: {printable(failure.hint)}")
    return "\n".join(lines)


def printable(raw: str) -> str:
    """Names from a file reach the terminal, but its control sequences and line breaks do not."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in raw)


def print_json(document: Any) -> None:
    """One JSON document on stdout. NaN and infinities become strings: JSON has no such numbers."""
    emit(json_text(document) + "\n")


def json_text(document: Any, *, indent: int | None = None) -> str:
    """A document as JSON that every reader takes."""
    return json.dumps(jsonable(document), allow_nan=False, indent=indent)


def emit(text: str) -> None:
    """Text to stdout, all of it: under PYTHONUNBUFFERED, print() drops what a pipe does not take at once."""
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a program that runs a command may have replaced stdout
        sys.stdout.write(text)
        return
    with open(descriptor, "wb", closefd=False) as out:
        out.write(text.encode(errors="backslashreplace"))


def say(text: str, *, indent: int = 0) -> None:
    """A line for people on stdout. It is not folded, so that a path can be copied whole."""
    emit(f"{' ' * indent}{printable(text)}\n")


def note(text: str) -> None:
    """A line for people on stderr."""
    print(printable(text), file=sys.stderr)


def jsonable(value: Any) -> Any:
    """Tuples to lists, non-finite floats to "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
