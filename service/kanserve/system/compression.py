"""gzip and deflate codecs of gRPC and HTTP, with a limit on the decompressed size."""

from __future__ import annotations

import asyncio
import contextlib
import zlib

# Window sizes of zlib: with the header of gzip, and with that of zlib, which both protocols call deflate.
WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
BLOCKING = 2**16  # bytes from which packing and unpacking run on a thread
LEVEL = 1  # of 9: higher levels compress tensors and text only a little more


class Corrupt(ValueError):
    """Invalid or incomplete compressed stream."""


class TooLong(ValueError):
    """Decompressed size that exceeds the limit."""


def unpacked(data: bytes, encoding: str, limit: int) -> bytes:
    """Decompressed bytes, at most `limit`. `encoding` is a key of WINDOWS. Raises Corrupt, TooLong."""
    stream = zlib.decompressobj(WINDOWS[encoding])
    try:
        plain = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise Corrupt from error
    if len(plain) > limit:
        raise TooLong
    if not stream.eof or stream.unused_data:
        raise Corrupt
    return plain


async def aside(data: bytes, encoding: str, limit: int) -> bytes:
    """The result of `unpacked`. Only data that is small both packed and unpacked stays on the event loop, because a
    few packed bytes can hold millions."""
    if len(data) < BLOCKING:
        with contextlib.suppress(TooLong):
            return unpacked(data, encoding, min(BLOCKING, limit))
    return await asyncio.to_thread(unpacked, data, encoding, limit)


def packed(data: bytes, encoding: str) -> bytes:
    """Compressed bytes; the inverse of `unpacked`."""
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOWS[encoding])
    return stream.compress(data) + stream.flush()


def chosen(accepted: str) -> str:
    """Supported encoding with the highest weight among those that Accept-Encoding names (RFC 9110, 12.5.3), or ""."""
    best, weight = "", 0.0
    for item in accepted.lower().split(",")[:16]:
        name, _, rest = item.partition(";")
        parameter, _, value = rest.partition("=")
        quality = 1.0
        if parameter.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                continue
        if name.strip() in WINDOWS and quality > weight:
            best, weight = name.strip(), quality
    return best
