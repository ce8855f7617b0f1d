"""Long lists of a large manifest, as plain numbers in a file next to it. The JSON document stays small, so that a
server parses it quickly. Standard library only.

The file has 8 bytes per number, little-endian: float64 or int64. A list of lists begins with the length of each row.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kanexport.shared.strict import ManifestError

FEW = 256  # a list with fewer numbers stays in the document
BYTES = 8  # bytes per number
CODES = {"float": "d", "int": "q"}
KINDS = {frozenset({int}): "int", frozenset({float}): "float", frozenset({int, float}): "float"}
LIMIT = 64 * 2**20  # bytes of the file: 8 million numbers, such as the mask of as many edges


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One list, which is empty in the document. `place`: its path in the document, such as layers.0.mask. `kind`:
    float or int. `offset`: its first byte. `numbers`: their count. `rows`: the count of rows of a list of lists,
    otherwise -1."""

    place: str
    kind: str
    offset: int
    numbers: int
    rows: int = -1


def taken_out(document: Any) -> tuple[Any, list[Stored], bytes]:
    """The document of `dataclasses.asdict` without its long lists, the places of these lists, and the bytes of the
    file."""
    kept: list[Stored] = []
    parts: list[array[Any]] = []

    def without(value: Any, place: str) -> Any:
        if isinstance(value, dict):
            return {key: without(item, f"{place}.{key}" if place else key) for key, item in value.items()}
        if not isinstance(value, list | tuple):
            return value
        found = _numbers(value)
        if found is None:
            return [without(item, f"{place}.{at}") for at, item in enumerate(value)]
        kind, lengths, numbers = found
        offset = BYTES * sum(map(len, parts))
        kept.append(
            Stored(
                place=place, kind=kind, offset=offset, numbers=len(numbers), rows=len(lengths or ()) - (lengths is None)
            )
        )
        parts.extend([array("q", lengths or ()), numbers])
        return []

    return without(document, ""), kept, b"".join(map(_bytes, parts))


def _numbers(value: Sequence[Any]) -> tuple[str, list[int] | None, array[Any]] | None:
    """The kind of a long list of numbers, or of lists of them, the lengths of its rows if it has some, and the
    numbers. None for a value that stays in the document."""
    rows = bool(value) and all(isinstance(row, list | tuple) and row for row in value)
    flat = list(itertools.chain.from_iterable(value)) if rows else list(value)
    kind = KINDS.get(frozenset(map(type, flat)))
    if len(flat) < FEW or kind is None:
        return None
    try:
        return kind, list(map(len, value)) if rows else None, array(CODES[kind], flat)
    except OverflowError:  # a number does not fit into 8 bytes
        return None


def put_back(document: dict[str, Any], stored: Sequence[Stored], data: bytes) -> None:
    """Put the lists into the document, as arrays, which `strict.build` takes. Raises ManifestError."""
    if len(data) > LIMIT:
        raise ManifestError(f"the numbers of the manifest have {len(data)} bytes, more than {LIMIT}")
    end = 0
    for one in stored:
        middle, end = _bounds(one, end, len(data))
        lengths = None if one.rows < 0 else _array("q", data[one.offset : middle])
        _put(document, one.place, _listed(lengths, _array(CODES[one.kind], data[middle:end]), one.place))
    if end != len(data):
        raise ManifestError(f"manifest.stored lists {end} bytes, the file has {len(data)}")


def _bounds(one: Stored, begin: int, size: int) -> tuple[int, int]:
    """The positions in the file at which the lengths of rows end and the numbers end. Raises ManifestError."""
    if one.kind not in CODES or one.numbers < 0 or one.rows < -1 or one.offset != begin:
        raise ManifestError(f"manifest.stored: {one.place[:80]!r} is not one list after the other of {list(CODES)}")
    middle = begin + BYTES * max(0, one.rows)
    end = middle + BYTES * one.numbers
    if end > size:
        raise ManifestError(f"manifest.stored: {one.place[:80]!r} has {one.numbers} numbers, beyond the file's end")
    return middle, end


def _listed(lengths: array[Any] | None, numbers: array[Any], place: str) -> Any:
    if lengths is None:
        return numbers
    if sum(lengths) != len(numbers) or min(lengths, default=1) < 1:
        raise ManifestError(f"manifest.stored: the rows of {place[:80]!r} are not {len(numbers)} numbers")
    return list(_rows(lengths, numbers))


def _rows(lengths: array[Any], numbers: array[Any]) -> Iterator[array[Any]]:
    at = 0
    for length in lengths:
        yield numbers[at : at + length]
        at += length


def _put(document: Any, place: str, value: Any) -> None:
    *steps, last = place.split(".")
    try:
        for step in steps:
            document = document[int(step)] if isinstance(document, list) else document[step]
        there = document[last]
    except (KeyError, IndexError, ValueError, TypeError):
        there = None
    if there != []:
        raise ManifestError(f"manifest.stored: there is no empty list at {place[:80]!r}")
    document[last] = value


def _array(code: str, data: bytes) -> array[Any]:
    found = array(code)
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _bytes(numbers: array[Any]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def entries(stored: Sequence[Stored]) -> list[dict[str, Any]]:
    """The entries as the document has them."""
    return [dataclasses.asdict(one) for one in stored]
