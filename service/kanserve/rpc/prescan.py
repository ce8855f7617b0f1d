"""How many fields a message has, before it is built: a few megabytes can name a million tensors.

The scan takes a microsecond or more per field. So there is one bound for all messages within a message together, and
the event loop scans only a few fields (`QUICK`).

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
QUICK = 2**12  # fields that the event loop scans: some milliseconds
TOTAL = 2**17  # fields of a message and of all within it
PACKED = 16  # bytes of packed numbers that count as one field: 2 MiB reach TOTAL
FIXED = frozenset((FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE))
TEXT = frozenset((FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE))


@dataclass(frozen=True, slots=True)
class Bound:
    """`most`: limit of fields of the message itself; `within`: bounds of its inner messages, by field number; `packed`:
    numbers of the fields that may hold many integers."""

    most: int = MOST
    within: Mapping[int, Bound] = field(default_factory=dict)
    packed: frozenset[int] = frozenset()


def bound(message: Descriptor, wide: Mapping[str, int]) -> Bound:
    """The bound of a message type and all messages within it. `wide`: limits above MOST, by message name."""
    fields = message.fields
    within = {one.number: bound(one.message_type, wide) for one in fields if one.message_type is not None}
    packed = frozenset(one.number for one in fields if one.is_repeated and one.cpp_type not in FIXED | TEXT)
    return Bound(wide.get(message.name, MOST), within, packed)


def fits(data: bytes, bound: Bound, total: int = TOTAL) -> bool:
    """Whether the fields are within the bound, and in all not more than `total`. Stops at the first field beyond."""
    return len(data) < WORTH or _fits(data, 0, len(data), bound, total) >= 0


def _fits(data: bytes, start: int, end: int, bound: Bound, left: int) -> int:
    """The number of the `left` fields that remain; below 0 if there are too many."""
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
