"""Tensors as JSON has them: lists of numbers, to bytes and back, exactly or not at all.

A float32 is written as the float64 that it equals, as Triton does: whoever reads either gets the same number.
NaN and the infinities, which JSON lacks, are the words NaN, Infinity and -Infinity, Triton's too; Python's and
RapidJSON's parsers take them.

The server handles lists and arrays in parts of `PART` numbers, because no other thread runs during one call of numpy or
orjson.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import orjson

from kanserve.errors import BadRequest
from kanserve.handlers import tensors
from kanserve.nouns import BYTES, HELD, Array, OutputTensor

WORDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
DEPTH = 16  # lists within lists, as many as a shape may have dimensions
NONFINITE = frozenset({"NaN", "Infinity", "-Infinity"})  # strings among numbers, as protobuf's JSON has them
PART = 2**16  # numbers
RAW_ONLY = ("FP16", "BF16")  # Triton's rule: no JSON for these
KINDS: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "u": (frozenset({int}), "integers"),
    "i": (frozenset({int}), "integers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}


def to_bytes(name: str, datatype: str, data: Any) -> bytes:
    """The bytes of an input whose numbers are `data`, nested or flat. Raises BadRequest."""
    if datatype in RAW_ONLY:
        raise BadRequest(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    if datatype not in HELD:
        raise BadRequest(f"invalid datatype for input {name}: '{datatype[:40]}' is none of {', '.join(HELD)}")
    values = _flat(name, data)
    allowed, words = KINDS[HELD[datatype].kind]
    if other := _kinds(values, words=HELD[datatype].kind == "f") - allowed:
        raise BadRequest(f"Unable to parse 'data' of input '{name}': {datatype} takes {words}, got {word(other.pop())}")
    if datatype == BYTES:
        return _strings(name, values)
    return b"".join(_array(name, datatype, part).tobytes() for part in _parts(values))


def fragment(tensor: OutputTensor) -> orjson.Fragment:
    """An output as a flat JSON list. Raises BadRequest for one that JSON cannot hold."""
    if tensor.datatype in RAW_ONLY:
        raise BadRequest(
            f"sending {tensor.datatype} data via JSON is not supported. Please use the binary data format for output "
            f"{tensor.name}"
        )
    if tensor.datatype == BYTES:
        return _texts(tensor)
    return orjson.Fragment(written(np.frombuffer(tensor.data, HELD[tensor.datatype])))


def written(array: Array) -> bytes:
    """An array as nested lists, of one dimension or more. A float32 is written as the float64 that it equals."""
    if array.size > PART and (rows := len(array) * PART // array.size):
        parts = [written(array[at : at + rows]) for at in range(0, len(array), rows)]
        return b"[" + b",".join(part[1:-1] for part in parts) + b"]"
    if array.size > PART:
        return b"[" + b",".join(map(written, array)) + b"]"
    wide = array.astype(np.float64) if array.dtype.kind == "f" else np.ascontiguousarray(array)
    if wide.dtype.kind == "f" and not np.isfinite(wide).all():
        return json.dumps(wide.tolist(), separators=(",", ":")).encode()
    return orjson.dumps(wide, option=orjson.OPT_SERIALIZE_NUMPY)


def _strings(name: str, values: Sequence[str]) -> bytes:
    try:
        return b"".join(tensors.joined(value.encode() for value in part) for part in _parts(values))
    except UnicodeEncodeError:
        raise BadRequest(f"input '{name}': half of a surrogate pair is no character") from None


def _texts(tensor: OutputTensor) -> orjson.Fragment:
    try:
        return orjson.Fragment(orjson.dumps([part.decode() for part in tensors.parted(tensor.data)]))
    except UnicodeDecodeError:
        raise BadRequest(
            f"output '{tensor.name}' holds bytes that are no UTF-8, as JSON needs; use the binary data format"
        ) from None


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[at : at + PART] for at in range(0, len(values), PART))


def _kinds(values: Sequence[Any], *, words: bool) -> set[type]:
    """The types of the values. `words`: the words of NONFINITE count as numbers."""
    kinds = set(itertools.chain.from_iterable(set(map(type, part)) for part in _parts(values)))
    if words and str in kinds and NONFINITE.issuperset(v for v in values if isinstance(v, str)):
        kinds.discard(str)
    return kinds


def _flat(name: str, data: Any) -> Sequence[Any]:
    if not isinstance(data, list):
        raise BadRequest(f"Unable to parse 'data' of input '{name}': expected a list, got {word(data)}")
    for _ in range(DEPTH):
        if not data or not isinstance(data[0], list):
            return cast(list[Any], data)
        if any(not isinstance(item, list) for item in data):
            raise BadRequest(f"Unable to parse 'data' of input '{name}': lists and values stand side by side")
        data = list(itertools.chain.from_iterable(data))
    raise BadRequest(f"JSON nesting depth exceeds maximum allowed limit ({DEPTH}) in 'data' of input '{name}'")


def _array(name: str, datatype: str, values: Sequence[Any]) -> Array:
    """One dimension, little-endian. Raises BadRequest for a number that the datatype has not."""
    dtype: Any = HELD[datatype]
    array = _floats(values, dtype) if dtype.kind == "f" else _whole(values, dtype)
    if array is None:
        raise BadRequest(f"input '{name}': a value does not fit {datatype}")
    return array


def _whole(values: Sequence[Any], dtype: Any) -> Array | None:
    if dtype.kind != "b" and values:  # as Python's integers: numpy makes floats of those beyond 63 bits
        bounds = np.iinfo(dtype)
        if min(values) < bounds.min or max(values) > bounds.max:
            return None
    return np.array(values, dtype)


def _floats(values: Sequence[Any], dtype: Any) -> Array | None:
    try:
        wide = np.array(values, np.float64)
    except OverflowError:
        return None
    with np.errstate(over="ignore"):
        array: Array = wide.astype(dtype)
    return None if (np.isinf(array) & np.isfinite(wide)).any() else array


def word(value: Any) -> str:
    """What JSON calls a value, or a type."""
    return WORDS.get(value if isinstance(value, type) else type(value), "null")
