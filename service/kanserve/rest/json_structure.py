"""Scanner of the structure of JSON before parsing: depth, number of values, and positions at which to cut it.

`scan(text, limits)` returns the `Shape` in one linear pass over slices. `pieces(text, shape)` returns parts of about
`SLICE` bytes, each complete JSON by itself.

A parser in C lets no other thread run until it returns. So one call for a large document stops the event loop, even
from another thread. If the server parses piece by piece, other threads get their turn between two pieces. No count
includes strings. This module does not decide whether the text is JSON. The parser decides it, piece by piece. Only
errors that a cut would hide are found here: `pieces` rejects them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SLICE = 2**17  # bytes that are scanned, and parsed, at a time
LONGEST = 2**21  # bytes of a piece: a string or an object that no cut divides
QUOTE, BACKSLASH, COMMA, COLON = b'",:'[0], b"\\"[0], b","[0], b":"[0]
OPENERS, CLOSERS = b"[{", b"]}"
CLOSES = dict(zip(OPENERS, CLOSERS, strict=True))
NO_END, NO_BEGINNING = b"[{,:", b"]},:"  # no piece ends, or begins, with these
MORE = "\u0000"  # the key for the rest of an object that an earlier piece began
AGAIN = {OPENERS[0]: b"[", OPENERS[1]: b'{"\\u0000":'}
SPACE = b" \t\n\r"

KINDS = np.zeros(256, np.uint8)
KINDS[list(OPENERS)], KINDS[list(CLOSERS)], KINDS[COMMA], KINDS[COLON] = 1, 2, 3, 4


class Malformed(ValueError):
    """Error for a text that is not JSON."""


class TooMuch(ValueError):
    """Error for a text with more `parts`, `values` or `bytes` than the limits allow, with their count so far."""

    def __init__(self, what: str, count: int) -> None:
        super().__init__(f"{count} {what}")
        self.what, self.count = what, count


@dataclass(slots=True)
class Shape:
    """Counts of a text. `marks` are the positions of brackets and colons, and of the last comma of each slice, in
    order."""

    commas: int = 0
    colons: int = 0
    openers: int = 0
    closers: int = 0
    marks: list[NDArray[np.int64]] = field(default_factory=list)

    @property
    def parts(self) -> int:
        """Lists, objects and colons: an empty one costs many times its two bytes."""
        return self.openers + self.colons


def scan(text: bytes, *, parts: int, values: int) -> Shape:
    """The counts of a text. Raises TooMuch as soon as a count exceeds its limit, Malformed for more closing brackets
    than opening ones."""
    shape, at, inside = Shape(), 0, False
    while at < len(text):
        end = min(at + SLICE, len(text))
        while end < len(text) and text[end - 1] == BACKSLASH:  # a slice does not divide an escape
            slice_ = text[at:end]
            if (len(slice_) - len(slice_.rstrip(b"\\"))) % 2 == 0:
                break
            end += 1
        piece = text[at:end]
        if BACKSLASH in piece:  # of the same length, so that positions stay
            piece = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        inside = _count(shape, piece, at, inside=inside)
        if shape.parts > parts:
            raise TooMuch("parts", shape.parts)
        if shape.commas > values:
            raise TooMuch("values", shape.commas)
        if shape.closers > shape.openers:
            raise Malformed("a bracket closes what none opened")
        at = end
    return shape


def _count(shape: Shape, piece: bytes, at: int, *, inside: bool) -> bool:
    """Add a slice. Returns whether the next slice begins inside a string."""
    letters = np.frombuffer(piece, np.uint8)
    kinds = KINDS[letters]
    if QUOTE in piece:
        quotes = np.cumsum(letters == QUOTE, dtype=np.uint8)
        kinds[(quotes + np.uint8(inside)) & 1 == 1] = 0
        inside = bool((int(quotes[-1]) + inside) & 1)
    elif inside:
        return True
    counts = np.bincount(kinds, minlength=5).tolist()
    shape.openers += counts[1]
    shape.closers += counts[2]
    shape.commas += counts[3]
    shape.colons += counts[4]
    commas = np.flatnonzero(kinds == 3)
    kinds[commas[:-1]] = 0
    shape.marks.append(np.flatnonzero(kinds) + at)
    return inside


def depth(text: bytes, shape: Shape) -> int:
    """The largest number of lists and objects that are open at once."""
    deepest, now = 0, 0
    for marks in shape.marks:
        kinds = KINDS[np.frombuffer(text, np.uint8)[marks]]
        steps = np.cumsum((kinds == 1).astype(np.int64) - (kinds == 2))
        if steps.size:
            deepest, now = max(deepest, now + int(steps.max())), now + int(steps[-1])
    return deepest


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of the text."""

    text: bytes  # complete JSON
    base: int  # levels that were open before, which the value of the piece continues
    start: int  # levels that are open at its start
    end: int  # levels that are open at its end
    colons: int  # its number of keys, those of MORE included


def pieces(text: bytes, shape: Shape) -> Iterator[Piece]:
    """The pieces, in their order. Raises Malformed, and TooMuch for a piece that is too long."""
    stack, before, at, low, colons = bytearray(), bytearray(), 0, 0, 0
    for mark in itertools.chain.from_iterable(marks.tolist() for marks in shape.marks):
        letter = text[mark]
        if letter in OPENERS:
            stack.append(letter)
        elif letter in CLOSERS:
            if not stack or CLOSES[stack.pop()] != letter:
                raise Malformed("a bracket closes what another opened")
            low = min(low, len(stack))
        elif letter == COLON:
            colons += 1
        elif stack and stack[-1] == OPENERS[0]:  # a comma between values of a list
            yield _piece(text[at:mark], before, stack, low, colons)
            at, before, low, colons = mark + 1, stack[:], len(stack), 0
    if stack:
        raise Malformed("the text ends inside of a list or an object")
    yield _piece(text[at:], before, stack, low, colons)


def _piece(text: bytes, before: bytearray, stack: bytearray, low: int, colons: int) -> Piece:
    if len(text) > LONGEST:
        raise TooMuch("bytes", len(text))
    bare = text.strip(SPACE)
    if not bare or bare[-1] in NO_END or (before and bare[0] in NO_BEGINNING):
        raise Malformed("a value is missing before or after a comma")
    base = max(low - 1, 0)
    begin = b"".join(AGAIN[letter] for letter in before[base:-1]) + bytes(before[base:][-1:])
    end = bytes(CLOSES[letter] for letter in reversed(stack[base:]))
    again = sum(letter == OPENERS[1] for letter in before[base:-1])
    return Piece(begin + text + end, base, len(before), len(stack), colons + again)
