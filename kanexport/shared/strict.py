"""Dataclasses from JSON, strictly: unknown keys, missing keys and wrong types are refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from array import array
from dataclasses import MISSING
from typing import Any, TypeVar

T = TypeVar("T")


DEPTH = 32  # levels of nested lists and objects
MOST = 100_000  # lists and objects together, which take longer to parse than numbers
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
SQUARE = bytes.maketrans(b"{}", b"[]")
NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")


class ManifestError(ValueError):
    """A manifest that cannot be understood; the text says where and why."""


def json_of(data: bytes) -> Any:
    """Parse a JSON document with at most MOST lists and objects, nested at most DEPTH deep, without NaN and infinities.
    Raises ValueError.

    The function counts the depth before it parses anything. Each turn removes the innermost brackets, and the time
    grows only with the bytes.
    """
    brackets = STRING.sub(b"", data).translate(SQUARE, NO_BRACKET)
    if len(brackets) > 2 * MOST:
        raise ValueError(f"it has {len(brackets) // 2} lists and objects, more than {MOST}")
    for _ in range(DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise ValueError(f"brackets do not match, or are nested more than {DEPTH} deep")
    return json.loads(data, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def build(kind: type[T], value: Any, where: str, *, defaults: bool) -> T:
    """Build one dataclass from a JSON object, field by field. `defaults`: an older
    format may lack the fields that have one. Raises ManifestError naming the first fault."""
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: expected an object, found {_name(value)}")
    hints = typing.get_type_hints(kind)
    _check_keys(set(value), list(hints), _with_default(kind) if defaults else set(), where)
    present = {name: hint for name, hint in hints.items() if name in value}
    return kind(**{name: _convert(hint, value[name], f"{where}.{name}", defaults) for name, hint in present.items()})


def _with_default(kind: type[Any]) -> set[str]:
    fields = dataclasses.fields(typing.cast(Any, kind))
    return {field.name for field in fields if (field.default, field.default_factory) != (MISSING, MISSING)}


def _check_keys(keys: set[str], known: list[str], optional: set[str], where: str) -> None:
    unknown = sorted(keys - set(known))
    if unknown:
        raise ManifestError(f"{where}: unknown key {unknown[0]!r}")
    missing = [name for name in known if name not in keys | optional]
    if missing:
        raise ManifestError(f"{where}: key {missing[0]!r} is missing")


def _convert(hint: Any, value: Any, where: str, defaults: bool) -> Any:
    """Convert one JSON value to the type of its field, refusing anything else."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _listed(typing.get_args(hint)[0], value, where, defaults)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise ManifestError(f"{where}: expected an object of strings, found {_name(value)}")
        return value
    if dataclasses.is_dataclass(hint) and not isinstance(hint, types.GenericAlias):
        return build(typing.cast(type, hint), value, where, defaults=defaults)
    return _scalar(hint, value, where)


def _listed(item: Any, value: Any, where: str, defaults: bool) -> tuple[Any, ...]:
    if isinstance(value, array):
        return _of_array(item, value, where)
    if not isinstance(value, list):
        raise ManifestError(f"{where}: expected a list, found {_name(value)}")
    return tuple(_convert(item, entry, f"{where}[{at}]", defaults) for at, entry in enumerate(value))


def _of_array(hint: Any, value: array[Any], where: str) -> tuple[Any, ...]:
    """The numbers of a list that came in a file of its own."""
    if hint is float and value.typecode == "q":
        return tuple(map(float, value))
    if hint is not {"d": float, "q": int}.get(value.typecode):
        raise ManifestError(f"{where}: expected a list of {getattr(hint, '__name__', hint)}, found numbers")
    if hint is float and not all(map(math.isfinite, value)):
        raise ManifestError(f"{where}: a number is not finite")
    return tuple(value)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ManifestError(f"{where}: number is not finite")
        return number
    if hint in (int, str, bool) and isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    raise ManifestError(f"{where}: expected {hint.__name__}, found {_name(value)}")


def _name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), type(value).__name__)
