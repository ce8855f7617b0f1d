"""JSON as it comes in: bounded before it is read, every key once, NaN and the infinities as Triton takes them.

The event loop waits while it is read, so orjson does that; the standard library, which is ten times slower, sees what
orjson refuses, and what may have a key twice, if it is not too large.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from kanserve.errors import BadRequest, Exhausted

PARTS = 2**17  # lists, objects and keys of one request: an empty one costs many times its two bytes
SLOW = 2**16  # values of one that the standard library reads
KEY_ENDS = (b'":', b'" :')
WORDS = (b"NaN", b"Infinity", b"-Infinity")
BEFORE = (b"[", b",", b" ", b"\n", b"\t")


def read(text: bytes, most: int) -> Any:
    """The document; NaN and the infinities in lists as strings. `most`: values in it. Raises BadRequest, Exhausted."""
    commas = text.count(b",")
    parts = text.count(b"[") + text.count(b"{") + text.count(b":")
    if parts > PARTS:
        raise BadRequest(
            f"the request has {parts} lists, objects and colons, at most {PARTS} are allowed; "
            "send the numbers of a tensor in one flat list, or as binary data"
        )
    if commas > most:
        raise Exhausted(f"the request has {commas} values in JSON, at most {most} are allowed; send binary data")
    document = _read(text, commas)
    # What looks like a key's end within a string makes the second look necessary, a doubled key makes it fail.
    if sum(map(text.count, KEY_ENDS)) != sum(_keys(document)):
        _slowly(text, commas)
    return document


def _read(text: bytes, commas: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        words = [word for word in WORDS if word in text]
        if not words:
            raise _malformed(error) from None
    # As values of lists they become strings, which `numbers` knows. Within a string that makes no JSON.
    quoted = text
    for word in words:
        for before in BEFORE:
            quoted = quoted.replace(before + word, before + b'"' + word + b'"')
    try:
        return orjson.loads(quoted)
    except orjson.JSONDecodeError:
        return _slowly(text, commas)


def _keys(value: Any) -> Iterator[int]:
    """How many keys the objects have, those in lists of numbers left out."""
    if isinstance(value, dict):
        yield len(value)
        for inner in value.values():
            yield from _keys(inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from _keys(inner)


def _slowly(text: bytes, commas: int) -> Any:
    if commas > SLOW:
        raise BadRequest(
            f"failed to parse the request JSON buffer: with more than {SLOW} values, here {commas}, NaN and Infinity "
            "may stand in lists alone, every key once, and no quote before a colon within a string; send binary data"
        )
    try:
        return json.loads(text, object_pairs_hook=_once, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadRequest(f"the key '{key[:80]}' stands twice in one object of the request")
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise BadRequest(f"the number {text[:40]} is larger than any that a tensor holds")
    return number


def _malformed(error: Exception) -> BadRequest:
    words = str(error) if isinstance(error, ValueError) else "lists and objects are nested too deep"
    return BadRequest(f"failed to parse the request JSON buffer: {words[:200]}")
