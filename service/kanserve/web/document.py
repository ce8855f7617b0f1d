"""JSON as it comes in: bounded before it is read, every key once, NaN and the infinities as Triton takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from kanserve.errors import BadRequest, Exhausted

CONTAINERS = 2**17  # lists and objects of one request: an empty one costs many times its two bytes
NONFINITE = re.compile(rb"\b(?:NaN|Infinity)\b")


def read(text: bytes, most: int) -> Any:
    """The document. `most`: values in it. Raises BadRequest, Exhausted."""
    containers, commas = text.count(b"[") + text.count(b"{"), text.count(b",")
    if containers > CONTAINERS:
        raise BadRequest(
            f"the request has {containers} lists and objects, at most {CONTAINERS} are allowed; "
            "send the numbers of a tensor in one flat list, or as binary data"
        )
    if commas > most:
        raise Exhausted(f"the request has {commas} values in JSON, at most {most} are allowed; send binary data")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if NONFINITE.search(text) is None:
            raise _malformed(error) from None
        return _strictly(text)
    # A colon within a string makes the second look necessary, a doubled key makes it fail.
    return document if text.count(b":") == sum(_keys(document)) else _strictly(text)


def _keys(value: Any) -> Iterator[int]:
    """How many keys the objects have, those in lists of numbers left out."""
    if isinstance(value, dict):
        yield len(value)
        for inner in value.values():
            yield from _keys(inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from _keys(inner)


def _strictly(text: bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise BadRequest(f"the key '{double[:80]}' stands twice in one object of the request")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise BadRequest(f"the number {text[:40]} is larger than any that a tensor holds")
    return number


def _malformed(error: Exception) -> BadRequest:
    words = str(error) if isinstance(error, ValueError) else "lists and objects are nested too deep"
    return BadRequest(f"failed to parse the request JSON buffer: {words[:200]}")
