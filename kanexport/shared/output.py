"""JSON and text on stdout. Standard library only."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from kanexport.shared.voice import printable


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
    except (OSError, ValueError):  # whoever runs a command inside a program may replace stdout
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
