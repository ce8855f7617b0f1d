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

from kanserve.grpc_api.call_context import CallFailed, Code, percent_encoded
from kanserve.grpc_api.unfinished_requests import Buffer
from kanserve.system import compression

PREFIX = struct.Struct(">BI")  # compressed or not, length
TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
ENCODINGS = {name.encode(): name for name in compression.WINDOWS}
ACCEPTED = b"identity, deflate, gzip"
BINARY = "-bin"

TOO_LARGE_HINT = "send fewer rows in one request, or raise max_request_bytes on the server"
CLIENT_HINT = "send the call with a gRPC library"

Headers = list[tuple[bytes, bytes]]


def frame(message: bytes) -> bytes:
    """The frame of an uncompressed message, as bytes on the wire."""
    return PREFIX.pack(0, len(message)) + message


def parts(message: bytes, size: int) -> Iterator[tuple[bytes, bool]]:
    """The frame of a message in parts of `size` bytes, and whether each part is the last one."""
    if len(message) <= size:
        yield frame(message), True
        return
    yield PREFIX.pack(0, len(message)) + message[:size], False
    for at in range(size, len(message), size):
        yield message[at : at + size], at + size >= len(message)


def alone(data: bytes, limit: int) -> bytes | None:
    """The message if `data` is exactly its frame; None otherwise, and for a compressed or too large message."""
    if len(data) < PREFIX.size or data[0]:
        return None
    length = int.from_bytes(data[1 : PREFIX.size], "big")
    return bytes(data[PREFIX.size :]) if len(data) == PREFIX.size + length and length <= limit else None


class Messages:
    """Decoder from the bytes of one call to its messages.

    limit     bytes of one message, unpacked
    encoding  the call's grpc-encoding; None without compression
    """

    __slots__ = ("_buffer", "_encoding", "_limit", "_plain", "_wanted", "size")

    def __init__(self, limit: int, encoding: bytes | None) -> None:
        self._limit, self._encoding = limit, encoding
        self._buffer, self._wanted = Buffer(), PREFIX.size
        self._plain = False  # whether the buffer begins with an uncompressed message of a known length
        self.size = 0  # bytes of messages that are not taken yet

    def take(self, data: bytes) -> Iterator[bytes | Packed]:
        """The messages that are complete now. Raises CallFailed for one that is too large, as soon as its length is
        known. Raises it too for a message in an encoding that the call does not name."""
        self._buffer.add(data)
        self.size = self._buffer.size
        if self.size < self._wanted:
            return
        if self._plain and self.size == self._wanted:  # the usual case, with one copy instead of two
            self.size, self._wanted, self._plain = 0, PREFIX.size, False
            yield self._buffer.take(PREFIX.size)
            return
        content, at = self._buffer.take(), 0
        while (end := at + self._end(content, at)) <= len(content):
            message = content[at + PREFIX.size : end]
            packed, at = content[at], end
            self.size = len(content) - at
            yield self._packed(message) if packed else message
        self._wanted, self._plain = end - at, end - at > PREFIX.size and not content[at]
        self._buffer.add(content[at:])

    def _end(self, content: bytes, at: int) -> int:
        """Bytes of the frame that begins at `at`, or of its prefix if that is not complete. Raises CallFailed."""
        if len(content) - at < PREFIX.size:
            return PREFIX.size
        packed, length = PREFIX.unpack_from(content, at)
        if length > self._limit:
            raise CallFailed(
                Code.RESOURCE_EXHAUSTED,
                f"received message larger than max ({length} vs. {self._limit})",
                code="message-too-large",
                hint=TOO_LARGE_HINT,
            )
        if packed > 1:
            raise CallFailed(
                Code.INTERNAL,
                f"a message begins with the byte {packed}, expected 0 or 1",
                code="grpc-frame-invalid",
                hint=CLIENT_HINT,
            )
        return PREFIX.size + int(length)

    @property
    def whole(self) -> bool:
        """Whether no message is unfinished."""
        return not self.size

    def _packed(self, message: bytes) -> Packed:
        if self._encoding not in ENCODINGS:
            raise CallFailed(
                Code.INTERNAL,
                "a message is compressed, but the call has no header grpc-encoding",
                code="grpc-encoding-missing",
                hint="set the header grpc-encoding, or send uncompressed messages",
            )
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
            raise CallFailed(
                Code.INTERNAL,
                f"a message is not a valid {self.encoding} stream",
                code="grpc-message-corrupt",
                hint="send the message again, or send it uncompressed",
            ) from None
        except compression.TooLong:
            raise CallFailed(
                Code.RESOURCE_EXHAUSTED,
                f"received message larger than max ({self.limit}) when unpacked",
                code="message-too-large",
                hint=TOO_LARGE_HINT,
            ) from None


def no_message() -> CallFailed:
    """The failure of a unary call without a message."""
    return CallFailed(
        Code.INTERNAL,
        "a unary call has no message, expected one",
        code="grpc-message-count",
        hint=CLIENT_HINT,
    )


def timeout(value: bytes) -> float:
    """The seconds of a grpc-timeout. Raises CallFailed for an invalid one."""
    match = TIMEOUT.fullmatch(value)
    if match is None:
        raise CallFailed(
            Code.INTERNAL,
            "invalid grpc-timeout: expected up to eight digits and one of H, M, S, m, u, n",
            code="grpc-timeout-invalid",
            hint="let a gRPC library set the deadline of the call",
        )
    return int(match[1]) * UNITS[match[2]]


def encoding(value: bytes | None) -> bytes | None:
    """The compression of a call; None without compression. Raises CallFailed for an unknown one."""
    if value is None or value == b"identity":
        return None
    if value not in ENCODINGS:
        named = value[:40].decode("ascii", "replace")
        raise CallFailed(
            Code.UNIMPLEMENTED,
            f"grpc-encoding {named} is not supported, expected one of {ACCEPTED.decode()}",
            code="encoding-not-supported",
            hint="compress messages with gzip, or send them uncompressed",
        )
    return value


def metadata(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str | bytes]]:
    """Names and values. Values of names that end in -bin are bytes; invalid base64 is left out."""
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
        headers.append((b"grpc-message", percent_encoded(text).encode()))
    headers += [(name.encode(), value.encode()) for name, value in trailers]
    return headers
