"""How many fields a message has, before it is built: a few megabytes can name a million tensors.

Looking costs time too, a microsecond and more per field, so all messages of one message together have a bound, and
whoever stands on the event loop looks at a few fields only (`QUICK`).

Source: the Protocol Buffers documentation, "Encoding": tags, varints and lengths. A message that is no message
is left to the parser, which refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, FieldDescriptor

VARINT, FIXED64, BYTES, BEGIN, END, FIXED32 = 0, 1, 2, 3, 4, 5  # BEGIN and END: of a group
WIDTHS = {FIXED64: 8, FIXED32: 4, BEGIN: 0, END: 0}  # what a group holds counts as the message's own
WORTH = 2**16  # bytes; a smaller message cannot hold much
MOST = 1024  # fields of one message; packed numbers are one
QUICK = 2**12  # fields that are looked at on the event loop: some milliseconds
TOTAL = 2**17  # fields of a message and of all within it
PACKED = 16  # bytes of packed numbers that take as long as a field: 2 MiB are as many as TOTAL
FIXED = frozenset((FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE))
TEXT = frozenset((FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE))


@dataclass(frozen=True, slots=True)
class Bound:
    """`most`: fields of the message itself; `within`: bounds of messages inside of it, `packed`: those that may hold
    many whole numbers, by field number."""

    most: int = MOST
    within: Mapping[int, Bound] = field(default_factory=dict)
    packed: frozenset[int] = frozenset()


def bound(message: Descriptor, wide: Mapping[str, int]) -> Bound:
    """Of a kind of message and all within it. `wide`: fields of those that may have more than MOST, by name."""
    fields = message.fields
    within = {one.number: bound(one.message_type, wide) for one in fields if one.message_type is not None}
    packed = frozenset(one.number for one in fields if one.is_repeated and one.cpp_type not in FIXED | TEXT)
    return Bound(wide.get(message.name, MOST), within, packed)


def fits(data: bytes, bound: Bound, total: int = TOTAL) -> bool:
    """Whether there are no more fields than that, and in all no more than `total`. Stops at the first too many."""
    return len(data) < WORTH or _fits(data, 0, len(data), bound, total) >= 0


def _fits(data: bytes, start: int, end: int, bound: Bound, left: int) -> int:
    """How many of the `left` fields are left then; below 0 where there are too many."""
    for count, (number, begin, stop) in enumerate(_fields(data, start, end), 1):
        left -= 1 + ((stop - begin) // PACKED if number in bound.packed else 0)
        if count > bound.most or left < 0:
            return -1
        inner = bound.within.get(number)
        if inner is not None:
            left = _fits(data, begin, stop, inner, left)
            if left < 0:
                return -1
    return left


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
