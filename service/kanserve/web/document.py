"""Reads JSON of requests: bounded before it is parsed, every key once, NaN and the infinities as Triton takes them.

`structure` first counts the depth, the values and the keys, in time that grows only with the bytes. Then orjson parses
the document, a large one piece by piece. The standard library is ten times slower. It parses only a document that
orjson rejects, or one with a repeated key, if it is not too large. `reading` moves work that may take long to a thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

from kanserve import threads
from kanserve.errors import BadRequest, Exhausted
from kanserve.web import structure
from kanserve.web.structure import Malformed, Piece, Shape, TooMuch

T = TypeVar("T")

PARTS = 2**17  # lists, objects and keys of one request: an empty one costs many times its two bytes
DEPTH = 32  # lists and objects within each other
SLOW = 2**16  # values of one that the standard library reads
SMALL = 4096  # bytes; a smaller one cannot hold much
LARGE = 2**16  # bytes from which a document is not read on the event loop
WORDS = (b"NaN", b"Infinity", b"-Infinity")
BEFORE = (b"[", b",", b" ", b"\n", b"\t")


async def reading(size: int, work: Callable[[], T]) -> T:
    """The result of `work`, which reads or writes `size` bytes of JSON. If `size` is large, it runs on a thread, one
    job at a time."""
    return work() if size < LARGE else await threads.alone(work)


def read(text: bytes, most: int) -> Any:
    """The document; NaN and the infinities in lists as strings. `most`: values in it. Raises BadRequest, Exhausted."""
    if len(text) <= SMALL and text.count(b"[") + text.count(b"{") <= DEPTH and text.count(b",") <= most:
        document = _read(text, SMALL)
        if text.count(b":") == _keys(document):  # colons within strings count too, so no key is repeated
            return document
    try:
        shape = structure.scan(text, parts=PARTS, values=most)
        if (depth := structure.depth(text, shape)) > DEPTH:
            raise _malformed(
                f"lists and objects are nested too deep, JSON nesting depth exceeds maximum allowed limit ({DEPTH}): "
                f"{depth}"
            )
        if len(text) <= structure.SLICE:
            return _checked(text, shape.colons, shape.commas)
        return _joined(text, shape)
    except Malformed as error:
        raise _malformed(str(error)) from None
    except TooMuch as error:
        raise _beyond(error, most) from None


def _checked(text: bytes, colons: int, commas: int) -> Any:
    """A document with `colons` keys, if no key is repeated."""
    document = _read(text, commas)
    if colons and colons != _keys(document):
        return _slowly(text, commas)
    return document


def _joined(text: bytes, shape: Shape) -> Any:
    """A document from its pieces. `open_` are the lists and objects that go on after a piece, outermost first."""
    whole: Any = None
    open_: list[Any] = []
    for piece in structure.pieces(text, shape):
        value = _checked(piece.text, piece.colons, piece.text.count(b","))
        if piece.start:
            _go_on(open_, piece, value)
            del open_[piece.base + 1 :]
        else:
            whole = value
            open_.append(value)
        while len(open_) < piece.end:
            last = open_[-1]
            open_.append(last[-1] if isinstance(last, list) else next(reversed(last.values())))
    return whole


def _go_on(open_: list[Any], piece: Piece, value: Any) -> None:
    """Add a piece to what is open."""
    for level in range(piece.base, piece.start):
        there, within = open_[level], level + 1 < piece.start
        if isinstance(there, list):
            there.extend(value[1:] if within else value)
            value = value[0] if within else None
        else:
            inner = value.pop(structure.MORE)
            if both := there.keys() & value.keys():
                raise _twice(min(both))
            there.update(value)
            value = inner


def _read(text: bytes, commas: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        words = [word for word in WORDS if word in text]
        if not words:
            raise _malformed(str(error)) from None
    # As values of lists they become strings, which `numbers` knows. Within a string that makes no JSON.
    quoted = text
    for word in words:
        for before in BEFORE:
            quoted = quoted.replace(before + word, before + b'"' + word + b'"')
    try:
        return orjson.loads(quoted)
    except orjson.JSONDecodeError:
        return _slowly(text, commas)


def _keys(value: Any) -> int:
    """The number of keys in all objects."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            count += len(one)
            waiting += one.values()
        elif isinstance(one, list) and not {dict, list}.isdisjoint(map(type, one)):
            waiting += one
    return count


def _slowly(text: bytes, commas: int) -> Any:
    if commas > SLOW:
        raise BadRequest(
            f"failed to parse the request JSON buffer: with more than {SLOW} values, here {commas}, NaN and Infinity "
            "may stand in lists alone, and every key once; send binary data"
        )
    try:
        return json.loads(text, object_pairs_hook=_once, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        words = str(error) if isinstance(error, ValueError) else "lists and objects are nested too deep"
        raise _malformed(words) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _twice(key)
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise BadRequest(f"the number {text[:40]} is larger than any that a tensor holds")
    return number


def _twice(key: str) -> BadRequest:
    return BadRequest(f"the key '{key[:80]}' stands twice in one object of the request")


def _beyond(error: TooMuch, most: int) -> BadRequest | Exhausted:
    if error.what == "values":
        return Exhausted(f"the request has {error.count} values in JSON, at most {most} are allowed; send binary data")
    if error.what == "parts":
        return BadRequest(
            f"the request has {error.count} lists, objects and colons, at most {PARTS} are allowed; "
            "send the numbers of a tensor in one flat list, or as binary data"
        )
    return BadRequest(
        f"the request has {error.count} bytes of JSON between two values of a list, at most {structure.LONGEST} are "
        "allowed; send binary data"
    )


def _malformed(words: str) -> BadRequest:
    return BadRequest(f"failed to parse the request JSON buffer: {words[:200]}")
