"""gRPC over HTTP/2 as bytes: message frames, timeouts, metadata, status.

Source: the gRPC project's PROTOCOL-HTTP2.md ("gRPC over HTTP2") and compression.md.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from kanserve.grpc_api.call_context import Code
from kanserve.grpc_api.interceptor import CallFailed
from kanserve.grpc_api.unfinished_requests import Buffer
from kanserve.system import compression

PREFIX = struct.Struct(">BI")  # compressed or not, length
TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
ENCODINGS = {name.encode(): name for name in compression.WINDOWS}
ACCEPTED = b"identity, deflate, gzip"
PLAIN = "".join(chr(byte) for byte in range(0x20, 0x7F) if byte != 0x25)  # of a status message, the rest is escaped
BINARY = "-bin"

Headers = list[tuple[bytes, bytes]]


def frame(message: bytes) -> bytes:
    """A message as it lies on the wire, uncompressed."""
    return PREFIX.pack(0, len(message)) + message


def parts(message: bytes, size: int) -> Iterator[tuple[bytes, bool]]:
    """The frame of a message in parts of so many bytes, and which is the last."""
    if len(message) <= size:
        yield frame(message), True
        return
    yield PREFIX.pack(0, len(message)) + message[:size], False
    for at in range(size, len(message), size):
        yield message[at : at + size], at + size >= len(message)


def alone(data: bytes, limit: int) -> bytes | None:
    """The message that `data` is the frame of; None for anything else, and what is packed or too large."""
    if len(data) < PREFIX.size or data[0]:
        return None
    length = int.from_bytes(data[1 : PREFIX.size], "big")
    return bytes(data[PREFIX.size :]) if len(data) == PREFIX.size + length and length <= limit else None


class Messages:
    """Decoder from the bytes of one call to its messages.

    limit     bytes of one message, unpacked
    encoding  the call's grpc-encoding; None without compression
    """

    __slots__ = ("_buffer", "_encoding", "_limit", "_wanted", "size")

    def __init__(self, limit: int, encoding: bytes | None) -> None:
        self._limit, self._encoding = limit, encoding
        self._buffer, self._wanted = Buffer(), PREFIX.size
        self.size = 0  # bytes of messages that are not taken yet

    def take(self, data: bytes) -> Iterator[bytes | Packed]:
        """The messages that are complete now. Raises CallFailed for one that is too large, as soon as its length is
        known. Raises it too for a message in an encoding that the call does not name."""
        self._buffer.add(data)
        self.size = self._buffer.size
        if self.size < self._wanted:
            return
        content, at = self._buffer.take(), 0
        while (end := at + self._end(content, at)) <= len(content):
            message = content[at + PREFIX.size : end]
            packed, at = content[at], end
            self.size = len(content) - at
            yield self._packed(message) if packed else message
        self._wanted = end - at
        self._buffer.add(content[at:])

    def _end(self, content: bytes, at: int) -> int:
        """Bytes of the frame that begins at `at`, or of its prefix if that is not complete. Raises CallFailed."""
        if len(content) - at < PREFIX.size:
            return PREFIX.size
        packed, length = PREFIX.unpack_from(content, at)
        if length > self._limit:
            raise failed(Code.RESOURCE_EXHAUSTED, f"received message larger than max ({length} vs. {self._limit})")
        if packed > 1:
            raise failed(Code.INTERNAL, f"a message begins with {packed}, expected 0 or 1")
        return PREFIX.size + int(length)

    @property
    def whole(self) -> bool:
        """Whether no message is unfinished."""
        return not self.size

    def _packed(self, message: bytes) -> Packed:
        if self._encoding not in ENCODINGS:
            raise failed(Code.INTERNAL, "a message is compressed, and the call names no grpc-encoding")
        return Packed(message, ENCODINGS[self._encoding], self._limit)


@dataclass(frozen=True, slots=True)
class Packed:
    """Compressed message whose unpacked size may be at most `limit` bytes."""

    data: bytes
    encoding: str
    limit: int

    async def unpacked(self) -> bytes:
        """The unpacked message. Unpacking runs on a thread if it takes long. Raises CallFailed."""
        try:
            return await compression.aside(self.data, self.encoding, self.limit)
        except compression.Corrupt:
            raise failed(Code.INTERNAL, f"a message is no {self.encoding} stream") from None
        except compression.TooLong:
            text = f"received message larger than max ({self.limit}) when unpacked"
            raise failed(Code.RESOURCE_EXHAUSTED, text) from None


def failed(code: Code, text: str) -> CallFailed:
    """A call that ends in the transport."""
    return CallFailed(code, text, ())


def timeout(value: bytes) -> float:
    """Seconds. Raises CallFailed for what is no grpc-timeout."""
    match = TIMEOUT.fullmatch(value)
    if match is None:
        raise failed(Code.INTERNAL, "grpc-timeout is up to eight digits and one of H, M, S, m, u, n")
    return int(match[1]) * UNITS[match[2]]


def encoding(value: bytes | None) -> bytes | None:
    """The call's compression, None for none. Raises CallFailed for one that is not known here."""
    if value is None or value == b"identity":
        return None
    if value not in ENCODINGS:
        named = value[:40].decode("ascii", "replace")
        raise failed(Code.UNIMPLEMENTED, f"grpc-encoding {named} is not supported; {ACCEPTED.decode()} are")
    return value


def metadata(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str | bytes]]:
    """Names and values; those of names that end in -bin are bytes, and left out where they are no base64."""
    for name, value in headers:
        key = name.decode("ascii", "replace")
        if not key.endswith(BINARY):
            yield key, value.decode("ascii", "replace")
            continue
        for part in value.split(b","):
            try:
                yield key, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
            except binascii.Error:
                continue


def status(code: Code, text: str = "", trailers: Iterable[tuple[str, str]] = ()) -> Headers:
    """The headers that end a call."""
    headers: Headers = [(b"grpc-status", str(int(code)).encode())]
    if text:
        headers.append((b"grpc-message", quote(text, safe=PLAIN).encode()))
    headers += [(name.encode(), value.encode()) for name, value in trailers]
    return headers
