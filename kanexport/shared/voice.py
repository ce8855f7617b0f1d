"""How a command says that it failed: exit codes, one JSON document, one text.

    {"error": {"kind": "NotFound", "message": "unknown model: 'digit'",
               "hint": "did you mean 'digits'?", "exit_code": 2}}

    kanserve infer: error: unknown model: 'digit'
      help: did you mean 'digits'?

The text goes to stderr; with `--json`, the document goes to stdout as well.
Standard library only.
"""

from __future__ import annotations

import enum
from typing import Any


class Exit(enum.IntEnum):
    """What a process returns. `EXIT_CODES` is the same table for people."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    UNPROVED = 3
    PARTLY = 4
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "anything else, such as a server that does not answer",
    Exit.WRONG: "the input or the command is wrong",
    Exit.UNPROVED: "the export's own verification failed",
    Exit.PARTLY: "export --recursive refused a part of the folder",
    Exit.INTERRUPTED: "interrupted",
}
EXIT_CODES = "exit codes:\n" + "\n".join(f"  {code:<4}{meaning}" for code, meaning in MEANINGS.items())


class Failure(Exception):
    """A command ends here, on purpose.

    `message` names the thing, what was found and what was expected; `hint` is advice, or
    empty. `kind` is for scripts: the name of the class, unless another is given.
    """

    exit_code: int = Exit.WRONG

    def __init__(self, message: str, *, hint: str = "", kind: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind or type(self).__name__
        if exit_code is not None:
            self.exit_code = exit_code


def facts(failure: Failure) -> dict[str, Any]:
    """One failure for machines: kind, message, hint, exit_code."""
    return {
        "kind": failure.kind,
        "message": failure.message,
        "hint": failure.hint,
        "exit_code": int(failure.exit_code),
    }


def document(failure: Failure) -> dict[str, Any]:
    """What a command prints with `--json` in the place of its result."""
    return {"error": facts(failure)}


def text(program: str, failure: Failure) -> str:
    """What a command prints to stderr; `program` is such as "kanserve export"."""
    lines = [f"{program}: error: {printable(failure.message)}"]
    if failure.hint:
        lines.append(f"  help: {printable(failure.hint)}")
    return "\n".join(lines)


def printable(raw: str) -> str:
    """Names from a file reach the terminal, but its control sequences and line breaks do not."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in raw)
