"""Varints, for messages that are written or read without building them. Source: Protocol Buffers, "Encoding"."""

from __future__ import annotations

def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A varint and the position after it; a position after `end` if there is none."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, end + 1


SHORT = [bytes([length]) for length in range(0x80)]


def varint(value: int) -> bytes:
    """A length as a varint, to put before its bytes."""
    if value <= 0x7F:
        return SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
