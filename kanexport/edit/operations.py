"""Operations on edges, from command arguments and from files: what the user requests, checked before a network changes.

One edge is (layer, source, destination), as everywhere in kanserve. Its text has colons, "0:2:1".
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.errors import OptionError
from kanexport.shared import csv_columns, csv_text, safe_files
from kanexport.shared.sections import EDIT_BYTES

TO, ZERO, CLAMP, MONOTONE, SHIFT, RAISE, POINTS = "to", "zero", "clamp", "monotone", "shift", "raise", "points"
OPERATIONS = (TO, ZERO, CLAMP, MONOTONE, SHIFT, RAISE, POINTS)
UP, DOWN = "up", "down"
POINTS_LIMIT = 100_000  # of the pairs of one edge
HINT = "run `kanserve edit --help` for the operations and their values"
FORM = 'write {"edits": [{"edge": "0:1:2", "to": "sin(x)"}]}, with one operation for each edge'


@dataclass(frozen=True, slots=True)
class EdgeEdit:
    """Operation on one edge.

    operation  one of OPERATIONS
    text       of TO: the expression; of MONOTONE: UP or DOWN; of POINTS: where the pairs are from
    numbers    of CLAMP: the lowest and the highest value; of SHIFT and RAISE: the distance
    points     of POINTS: pairs of x and y
    """

    layer: int
    source: int
    destination: int
    operation: str
    text: str = ""
    numbers: tuple[float, ...] = ()
    points: tuple[tuple[float, float], ...] = ()

    @property
    def edge(self) -> tuple[int, int, int]:
        """(layer, source, destination)"""
        return self.layer, self.source, self.destination

    @property
    def name(self) -> str:
        """The edge as text, such as "0:2:1"."""
        return ":".join(map(str, self.edge))

    @property
    def summary(self) -> str:
        """The operation as text, such as "clamp -1:2" or "to 1.2*sin(x)"."""
        parts = self.text or ":".join(f"{number:.9g}" for number in self.numbers)
        return f"{self.operation} {parts}".strip()


def edge_of(text: str) -> tuple[int, int, int]:
    """The edge of a text such as "0:2:1". Raises OptionError."""
    parts = text.strip().replace(",", ":").split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        raise OptionError(
            f"edge {text[:40]!r} is not LAYER:SOURCE:DESTINATION",
            code="edge-malformed",
            hint="write three numbers that count from 0, such as 0:2:1",
        )
    layer, source, destination = map(int, parts)
    return layer, source, destination


def parse(edge: str | Iterable[int], operation: str, value: Any, *, folder: Path = Path()) -> EdgeEdit:
    """One edit. `value`: as in an argument or in a file of edits; `folder`: where a relative name of a file of points
    starts. Raises OptionError."""
    layer, source, destination = edge_of(edge if isinstance(edge, str) else ":".join(map(str, edge)))
    if operation not in OPERATIONS:
        raise OptionError(
            f"unknown operation {str(operation)[:40]!r}, expected one of {', '.join(OPERATIONS)}",
            code="operation-unknown",
            hint=HINT,
        )
    return EdgeEdit(layer, source, destination, operation, *PARSERS[operation](value, folder))


def load(path: Path) -> tuple[EdgeEdit, ...]:
    """The edits in a file, .json or .toml. Raises OptionError."""
    try:
        data = safe_files.read(path, EDIT_BYTES, links=True)
        document = tomllib.loads(data.decode()) if path.suffix == ".toml" else json.loads(data)
    except OSError as error:
        raise OptionError(
            f"--file {path} cannot be read: {error.strerror or error}",
            code="edits-unreadable",
            hint="check the path and the permissions of the file",
        ) from error
    except (ValueError, RecursionError) as error:
        raise OptionError(
            f"--file {path.name} is not valid {path.suffix.lstrip('.').upper() or 'JSON'}: {str(error)[:120]}",
            code="edits-malformed",
            hint=FORM,
        ) from error
    return of_document(document, path.name, folder=path.parent)


def of_document(document: Any, name: str = "the document", *, folder: Path = Path()) -> tuple[EdgeEdit, ...]:
    """The edits of a parsed document. `name`: for messages. Raises OptionError."""
    entries = document.get("edits") if isinstance(document, Mapping) else document
    if not isinstance(entries, list) or not entries:
        raise OptionError(f"{name} has no list of edits", code="edits-malformed", hint=FORM)
    edits = []
    for at, entry in enumerate(entries):
        where = f"edit {at} of {name}"
        keys = sorted(entry.keys() - {"edge"}) if isinstance(entry, Mapping) else []
        edge = entry.get("edge") if isinstance(entry, Mapping) else None
        if len(keys) != 1 or not isinstance(edge, str | list):
            raise OptionError(
                f"{where} has the operations {', '.join(map(str, keys))[:80] or 'none'}, "
                "expected an edge and one operation",
                code="edits-malformed",
                hint=FORM,
            )
        try:
            edits.append(parse(edge, keys[0], entry[keys[0]], folder=folder))
        except OptionError as error:
            raise error.at(where) from error
    check(edits)
    return tuple(edits)


def check(edits: Iterable[EdgeEdit]) -> None:
    """Raises OptionError for an empty list, and for two edits of the same edge."""
    seen: set[tuple[int, int, int]] = set()
    for edit in edits:
        if edit.edge in seen:
            raise OptionError(
                f"edge {edit.name} has more than one operation",
                code="edge-repeated",
                hint="write a version with the first operation, then edit that version",
            )
        seen.add(edit.edge)
    if not seen:
        raise OptionError(
            "found no edit, expected one or more",
            code="edits-missing",
            hint='name an edge and an operation, such as --edge 0:1:2 --to "sin(x)"',
        )


Values = tuple[str, tuple[float, ...], tuple[tuple[float, float], ...]]


def _number(value: Any, operation: str) -> float:
    """A finite number. Raises OptionError."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(
            f"{operation}: found {str(value)[:40]!r}, expected a finite number", code="edit-value-invalid", hint=HINT
        )
    return number


def _to(value: Any, folder: Path) -> Values:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise OptionError(
            f"{TO}: found {str(value)[:40]!r}, expected an expression of x", code="edit-value-invalid", hint=HINT
        )
    return str(value).strip(), (), ()


def _zero(value: Any, folder: Path) -> Values:
    if value is not True:
        raise OptionError(
            f"{ZERO}: found {str(value)[:40]!r}, expected true", code="edit-value-invalid", hint="write zero = true"
        )
    return "", (), ()


def _clamp(value: Any, folder: Path) -> Values:
    ends = value.split(":") if isinstance(value, str) else value
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise OptionError(
            f"{CLAMP}: found {str(value)[:40]!r}, expected LOW:HIGH", code="edit-value-invalid", hint="write clamp -1:2"
        )
    low, high = (_number(end, CLAMP) for end in ends)
    if low > high:
        raise OptionError(
            f"{CLAMP}: the lowest value {low:g} is above the highest value {high:g}",
            code="edit-value-invalid",
            hint=f"write {high:g}:{low:g}",
        )
    return "", (low, high), ()


def _monotone(value: Any, folder: Path) -> Values:
    if value not in (UP, DOWN):
        raise OptionError(
            f"{MONOTONE}: found {str(value)[:40]!r}, expected {UP} or {DOWN}", code="edit-value-invalid", hint=HINT
        )
    return value, (), ()


def _points(value: Any, folder: Path) -> Values:
    if isinstance(value, str | Path):
        return Path(value).name, (), _of_file(folder / value)
    if not isinstance(value, list | tuple) or not all(isinstance(pair, list | tuple) for pair in value):
        raise _malformed(f"found {str(value)[:40]!r}")
    if not 1 <= len(value) <= POINTS_LIMIT or any(len(pair) != 2 for pair in value):
        raise _malformed(f"found {len(value)} entries that are not all pairs")
    pairs = tuple((_number(x, POINTS), _number(y, POINTS)) for x, y in value)
    return f"{len(pairs)} points", (), pairs


def _of_file(path: Path) -> tuple[tuple[float, float], ...]:
    """Pairs of a CSV file with two columns. Raises OptionError."""
    try:
        rows, _ = csv_columns.whole(path.name, safe_files.read(path, 64 * POINTS_LIMIT, links=True))
    except OSError as error:
        raise _malformed(f"{path} cannot be read: {error.strerror or error}") from error
    except csv_text.CsvError as error:
        raise _malformed(str(error.args[0])) from error
    if rows.ndim != 2 or rows.shape[1] != 2 or not 1 <= len(rows) <= POINTS_LIMIT:
        raise _malformed(f"{path.name} has the shape {list(rows.shape)}")
    return tuple((_number(x, POINTS), _number(y, POINTS)) for x, y in rows.tolist())


def _malformed(fault: str) -> OptionError:
    return OptionError(
        f"{POINTS}: {fault}, expected 1 to {POINTS_LIMIT} pairs of x and y",
        code="points-malformed",
        hint="pass a CSV file with the columns x and y",
    )


PARSERS = {
    TO: _to,
    ZERO: _zero,
    CLAMP: _clamp,
    MONOTONE: _monotone,
    SHIFT: lambda value, folder: ("", (_number(value, SHIFT),), ()),
    RAISE: lambda value, folder: ("", (_number(value, RAISE),), ()),
    POINTS: _points,
}
