"""How many fields a message has, before it is built: a few megabytes can name a million tensors.

Source: the Protocol Buffers documentation, "Encoding": tags, varints and lengths. A message that is no message
is left to the parser, which refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

VARINT, FIXED64, BYTES, BEGIN, END, FIXED32 = 0, 1, 2, 3, 4, 5  # BEGIN and END: of a group
WIDTHS = {FIXED64: 8, FIXED32: 4, BEGIN: 0, END: 0}  # what a group holds counts as the message's own
WORTH = 2**16  # bytes; a smaller message cannot hold much
MOST = 1024  # fields of one message; packed numbers are one


@dataclass(frozen=True, slots=True)
class Bound:
    """`most`: fields of the message itself; `within`: bounds of messages inside of it, by field number."""

    most: int = MOST
    within: Mapping[int, Bound] = field(default_factory=dict)


def fits(data: bytes, bound: Bound) -> bool:
    """Whether there are no more fields than that. Stops at the first too many."""
    return len(data) < WORTH or _fits(data, 0, len(data), bound)


def _fits(data: bytes, start: int, end: int, bound: Bound) -> bool:
    for count, (number, begin, stop) in enumerate(_fields(data, start, end), 1):
        if count > bound.most:
            return False
        inner = bound.within.get(number)
        if inner is not None and not _fits(data, begin, stop, inner):
            return False
    return True


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field's value, as far as they can be told."""
    while at < end:
        tag, at = read_varint(data, at, end)
        kind = tag & 7
        if kind == VARINT:
            _, stop = read_varint(data, at, end)
        elif kind == BYTES:
            length, at = read_varint(data, at, end)
            stop = at + length
        elif kind in WIDTHS:
            stop = at + WIDTHS[kind]
        else:
            return
        if stop > end:
            return
        yield tag >> 3, at, stop
        at = stop


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A varint and where it ends; beyond `end` where there is none."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, end + 1
