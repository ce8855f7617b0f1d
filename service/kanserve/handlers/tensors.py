"""The bytes of a tensor as they lie on the wire, and its array, both ways.

Source of how strings lie: Triton's "binary tensor data extension": the length of each in four bytes,
little-endian, then its bytes.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from kanserve.errors import BadRequest, Exhausted
from kanserve.nouns import BYTES, HELD, Array, InputTensor

LENGTH = struct.Struct("<I")


def numbers(tensor: InputTensor) -> Array:
    """A view of the bytes, whose count fits the shape; read-only, which the runtime does not mind."""
    return np.frombuffer(tensor.data, HELD[tensor.datatype]).reshape(tensor.shape)


def strings(tensor: InputTensor, model: str, *, most: int, prefix: str = "") -> Array:
    """An array of str. Raises Exhausted for more than `most`; BadRequest, in Triton's words behind `prefix`,
    for bytes that do not fit the shape, or are not UTF-8."""
    count = math.prod(tensor.shape)
    if count > most:
        raise Exhausted(
            f"{prefix}input '{tensor.name}' of model '{model}' has {count} strings, one input may have {most}; "
            "send fewer rows in one request"
        )
    where = f"for inference input '{tensor.name}' for model '{model}'"
    try:
        found = list(_texts(tensor.data, count, where))
    except BadRequest as error:
        raise BadRequest(f"{prefix}{error}") from error
    array = np.empty(count, object)
    array[:] = found
    return array.reshape(tensor.shape)


def packed(datatype: str, values: Array) -> bytes:
    """An array's bytes on the wire."""
    if datatype == BYTES:
        return joined(text.encode() for text in values.ravel().tolist())
    return np.ascontiguousarray(values, HELD[datatype]).tobytes()


def joined(parts: Iterable[bytes]) -> bytes:
    """Strings as they lie on the wire."""
    return b"".join(itertools.chain.from_iterable((LENGTH.pack(len(part)), part) for part in parts))


def parted(data: bytes) -> Iterator[bytes]:
    """The inverse of `joined`."""
    at = 0
    while at < len(data):
        (length,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size + length
        yield data[at - length : at]


def _texts(data: bytes, count: int, where: str) -> Iterator[str]:
    """The `count` strings of an input. Raises BadRequest."""
    at = found = 0
    while at < len(data):
        begin = at + LENGTH.size
        if begin > len(data):
            raise BadRequest(
                f"incomplete string length indicator {where}, expecting {LENGTH.size} bytes but only "
                f"{len(data) - at} bytes available."
            )
        (length,) = LENGTH.unpack_from(data, at)
        at = begin + length
        found += 1
        if found > count:
            raise BadRequest(f"unexpected number of string elements {found} {where}, expecting {count}")
        if at > len(data):
            raise BadRequest(
                f"incomplete string data {where}, expecting string of length {length} but only "
                f"{len(data) - begin} bytes available"
            )
        try:
            yield data[begin:at].decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"string {found - 1} {where} is not UTF-8, which the runtime's strings are") from error
    if found != count:
        raise BadRequest(f"expected {count} string elements {where}, got {found}")
