"""gzip and deflate as gRPC and HTTP have them, with a bound on what comes out."""

from __future__ import annotations

import zlib

# Window sizes of zlib: gzip's own header, and zlib's, which both protocols call deflate.
WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
LEVEL = 1  # of 9: tensors shrink little, and what text can lose it loses at once


class Corrupt(ValueError):
    """The bytes are no such stream, or not the whole of one."""


class TooLong(ValueError):
    """More comes out than was allowed."""


def unpacked(data: bytes, encoding: str, limit: int) -> bytes:
    """`encoding`: a key of WINDOWS; `limit`: bytes that may come out. Raises Corrupt, TooLong."""
    stream = zlib.decompressobj(WINDOWS[encoding])
    try:
        plain = stream.decompress(data, limit)
    except zlib.error as error:
        raise Corrupt from error
    if stream.unconsumed_tail:
        raise TooLong
    if not stream.eof or stream.unused_data:
        raise Corrupt
    return plain


def packed(data: bytes, encoding: str) -> bytes:
    """The inverse."""
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOWS[encoding])
    return stream.compress(data) + stream.flush()
