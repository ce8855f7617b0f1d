"""Strict JSON codec for dataclasses: unknown keys, missing keys and wrong types are rejected by name.

Own code of 70 lines: msgspec ignores unknown keys of a dataclass and has no limit on lists (10 MB become 5 million
lists in 2.2 s, refused here in 0.15 s). cattrs reads "1" and true as numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
import sys
import types
import typing
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from kanexport.shared.cli.console import CodedError

T = TypeVar("T")


PLAIN = (float, int, str, bool)
LEAST, MOST = -(2**63), 2**63 - 1  # integers that arrays and Protobuf take
OPTIONAL = {"optional": True}  # metadata of a field that a document lacks if the field has its default value
DEPTH = 32  # levels of nested lists and objects
CONTAINER_LIMIT = 100_000  # lists and objects together, which take longer to parse than numbers
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
SQUARE = bytes.maketrans(b"{}", b"[]")
NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")


class ManifestError(CodedError):
    """Manifest that cannot be read. The message names the place and the reason."""

    code = "manifest-invalid"
    hint = "copy the version folder again, or export the model again"


def json_of(data: bytes) -> Any:
    """Parse a JSON document with at most CONTAINER_LIMIT lists and objects, nested at most DEPTH deep, without NaN and
    infinities. Raises ValueError.

    The function counts the depth before it parses anything. Each turn removes the innermost brackets, and the time
    grows only with the bytes.
    """
    brackets = STRING.sub(b"", data).translate(SQUARE, NO_BRACKET)
    if len(brackets) > 2 * CONTAINER_LIMIT:
        raise ValueError(f"found {len(brackets) // 2} lists and objects, expected at most {CONTAINER_LIMIT}")
    for _ in range(DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise ValueError(f"the brackets do not match, or are nested more than {DEPTH} deep")
    return json.loads(data, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def build(kind: type[T], value: Any, where: str) -> T:
    """Build one dataclass from a JSON object, field by field. Raises ManifestError naming the first fault."""
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: expected an object, found {name_of(value)}")
    hints = _hints(typing.cast("typing.Hashable", kind))
    missing = _check_keys(set(value), list(hints), where, kind)
    return kind(
        **{
            name: value[name] if _exact(hint, value[name]) else _convert(hint, value[name], f"{where}.{name}")
            for name, hint in hints.items()
            if name not in missing
        }
    )


def document_of(value: Any) -> dict[str, Any]:
    """The document of a dataclass, without its optional fields that have their default values."""
    document = dataclasses.asdict(value)
    kind: Any = type(value)
    for name, default in _optional(kind).items():
        if getattr(value, name) == default:
            del document[name]
    return document


@functools.cache
def _optional(kind: Any) -> dict[str, Any]:
    """The default values of the optional fields."""
    return {field.name: field.default for field in dataclasses.fields(kind) if "optional" in field.metadata}


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of the fields. Python evaluates the annotations for 0.3 ms, so each kind is evaluated once."""
    return typing.get_type_hints(kind)


def evaluate_annotations(kind: type) -> None:
    """Evaluate the annotations of a dataclass and of the dataclasses in it now, and not at the first use."""
    for hint in _hints(typing.cast("typing.Hashable", kind)).values():
        while typing.get_origin(hint) is tuple:
            hint = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(hint):
            evaluate_annotations(typing.cast(type, hint))


def _exact(hint: Any, value: Any) -> bool:
    """True for a value that needs neither a conversion nor a check. A number may be NaN or too large."""
    return type(value) is hint and hint is not float and (hint is not int or LEAST <= value <= MOST)


def _check_keys(keys: set[str], known: list[str], where: str, kind: Any) -> set[str]:
    """The missing keys, which are optional. Raises ManifestError for unknown keys and for other missing keys."""
    unknown = sorted(keys - set(known))
    if unknown:
        raise ManifestError(f"{where}: unknown key {unknown[0]!r}")
    if len(keys) == len(known):
        return set()
    missing = [name for name in known if name not in keys]
    required = [name for name in missing if name not in _optional(kind)]
    if required:
        raise ManifestError(f"{where}: key {required[0]!r} is missing")
    return set(missing)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert one JSON value to the type of its field, and reject other values."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _listed(typing.get_args(hint)[0], value, where)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise ManifestError(f"{where}: expected an object of strings, found {name_of(value)}")
        return value
    if dataclasses.is_dataclass(hint) and not isinstance(hint, types.GenericAlias):
        return build(typing.cast(type, hint), value, where)
    return _scalar(hint, value, where)


def _listed(item: Any, value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, array):
        return _of_array(item, value, where)
    if not isinstance(value, list):
        raise ManifestError(f"{where}: expected a list, found {name_of(value)}")
    if item in PLAIN and set(map(type, value)) <= {item}:
        bounded = True
        if item is int:
            bounded = not value or LEAST <= min(value) <= max(value) <= MOST
        elif item is float:
            bounded = all(map(math.isfinite, value))
        if bounded:
            return tuple(value)
    return tuple(_convert(item, entry, f"{where}[{at}]") for at, entry in enumerate(value))


def _of_array(hint: Any, value: array[Any], where: str) -> tuple[Any, ...]:
    """The numbers of a list that was stored in a separate file."""
    if hint is float and value.typecode == "q":
        return tuple(map(float, value))
    if hint is not {"d": float, "q": int}.get(value.typecode):
        raise ManifestError(f"{where}: expected a list of {getattr(hint, '__name__', hint)}, found numbers")
    if hint is float and not all(map(math.isfinite, value)):
        raise ManifestError(f"{where}: found NaN or infinity, expected finite numbers")
    return tuple(value)


def _scalar(hint: type, value: Any, where: str) -> Any:
    kinds: Any = (int, float) if hint is float else hint
    if hint not in PLAIN or not isinstance(value, kinds) or isinstance(value, bool) != (hint is bool):
        raise ManifestError(f"{where}: expected {hint.__name__}, found {name_of(value)}")
    if hint is float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ManifestError(f"{where}: found NaN or infinity, expected a finite number")
        return number
    if hint is int and not LEAST <= value <= MOST:
        raise ManifestError(f"{where}: found an integer outside of 64 bits, expected {LEAST} to {MOST}")
    return value


def name_of(value: Any) -> str:
    """The kind of a JSON value, such as "an object"."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), type(value).__name__)


FEW = 256  # a list with fewer numbers stays in the document
BYTES = 8  # bytes per number
CODES = {"float": "d", "int": "q"}
KINDS = {frozenset({int}): "int", frozenset({float}): "float", frozenset({int, float}): "float"}
LIMIT = 64 * 2**20  # bytes of the file: 8 million numbers, such as the mask of as many edges


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """List that is stored outside the document, where it is empty.

    place   its path in the document, such as layers.0.mask
    kind    float or int
    offset  its first byte
    numbers the count of its numbers
    rows    the count of rows of a list of lists, otherwise -1
    """

    place: str
    kind: str
    offset: int
    numbers: int
    rows: int = -1


def extract_lists(document: Any) -> tuple[Any, list[Stored], bytes]:
    """The document of `dataclasses.asdict` without its long lists, the places of these lists, and the bytes of the
    file."""
    stored_lists: list[Stored] = []
    parts: list[array[Any]] = []

    def without(value: Any, place: str) -> Any:
        if isinstance(value, dict):
            return {key: without(item, f"{place}.{key}" if place else key) for key, item in value.items()}
        if not isinstance(value, list | tuple):
            return value
        numeric = _numbers(value)
        if numeric is None:
            return [without(item, f"{place}.{at}") for at, item in enumerate(value)]
        kind, lengths, numbers = numeric
        offset = BYTES * sum(map(len, parts))
        stored_lists.append(
            Stored(
                place=place, kind=kind, offset=offset, numbers=len(numbers), rows=len(lengths or ()) - (lengths is None)
            )
        )
        parts.extend([array("q", lengths or ()), numbers])
        return []

    bare = without(document, "")
    if sys.byteorder == "big":
        for part in parts:
            part.byteswap()
    return bare, stored_lists, b"".join(part.tobytes() for part in parts)


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


def restore_lists(document: dict[str, Any], stored: Sequence[Stored], data: bytes) -> None:
    """Put the lists into the document, as arrays, which `build` takes. Raises ManifestError."""
    if len(data) > LIMIT:
        raise ManifestError(f"the numbers of the manifest have {len(data)} bytes, expected at most {LIMIT}")
    end = 0
    for entry in stored:
        middle, end = _bounds(entry, end, len(data))
        numbers: Any = _array(CODES[entry.kind], data[middle:end])
        if entry.rows >= 0:
            lengths = _array("q", data[entry.offset : middle])
            if sum(lengths) != len(numbers) or min(lengths, default=1) < 1:
                raise ManifestError(
                    f"manifest.stored: the rows of {entry.place[:80]!r} do not add up to {len(numbers)} numbers"
                )
            ends = itertools.accumulate(lengths)
            numbers = [numbers[at - length : at] for at, length in zip(ends, lengths, strict=True)]
        _put(document, entry.place, numbers)
    if end != len(data):
        raise ManifestError(f"manifest.stored lists {end} bytes, the file has {len(data)}")


def _bounds(entry: Stored, begin: int, size: int) -> tuple[int, int]:
    """The positions in the file at which the lengths of rows end and the numbers end. Raises ManifestError."""
    if entry.kind not in CODES or entry.numbers < 0 or entry.rows < -1 or entry.offset != begin:
        raise ManifestError(
            f"manifest.stored: {entry.place[:80]!r} has an invalid kind, size or offset; kinds: {', '.join(CODES)}"
        )
    middle = begin + BYTES * max(0, entry.rows)
    end = middle + BYTES * entry.numbers
    if end > size:
        raise ManifestError(f"manifest.stored: {entry.place[:80]!r} has {entry.numbers} numbers, more than the file")
    return middle, end


def _put(document: Any, place: str, value: Any) -> None:
    *steps, last = place.split(".")
    try:
        for step in steps:
            document = document[int(step)] if isinstance(document, list) else document[step]
        there = document[last]
    except (KeyError, IndexError, ValueError, TypeError):
        there = None
    if there != []:
        raise ManifestError(f"manifest.stored: the manifest has no empty list at {place[:80]!r}")
    document[last] = value


def _array(code: str, data: bytes) -> array[Any]:
    values = array(code)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def entries(stored: Sequence[Stored]) -> list[dict[str, Any]]:
    """The entries in the form of the document."""
    return [dataclasses.asdict(entry) for entry in stored]
