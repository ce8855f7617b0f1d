"""Reader of JSON requests, with limits before parsing, unique keys, and NaN and the infinities as Triton accepts them.

`structure` first counts the depth, the values and the keys, in time that grows only with the bytes. Then orjson parses
the document, a large one piece by piece. The standard library is ten times slower. It parses only a document that
orjson rejects, or one with a repeated key, if it is not too large. `reading` moves work that may take long to a thread.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import orjson

from kanexport.shared.cli.suggest import advice
from kanserve.errors import BadRequest, ResourceExhausted
from kanserve.rest import json_structure
from kanserve.rest.json_structure import Malformed, Shape, TooMuch
from kanserve.services import validation
from kanserve.system import resources
from kanserve.types import BYTES, NUMPY_DTYPES, Array, OutputTensor

T = TypeVar("T")

PARTS = 2**17  # lists, objects and keys of one request: an empty one costs many times its two bytes
JSON_DEPTH = 32  # lists and objects within each other
SLOW = 2**16  # values of one that the standard library reads
SMALL = 4096  # bytes; a smaller document has few values
LARGE = 2**16  # bytes from which a document is not read on the event loop
JSON_WORDS = (b"NaN", b"Infinity", b"-Infinity")
BEFORE = (b"[", b",", b" ", b"\n", b"\t")


async def reading(size: int, work: Callable[[], T]) -> T:
    """The result of `work`, which reads or writes `size` bytes of JSON. If `size` is large, it runs on a thread, one
    job at a time."""
    return work() if size < LARGE else await resources.alone(work)


def read(text: bytes, most: int) -> Any:
    """The document, with NaN and the infinities in lists as strings. `most`: limit of its values. Raises BadRequest,
    ResourceExhausted."""
    if len(text) <= SMALL and text.count(b"[") + text.count(b"{") <= JSON_DEPTH and text.count(b",") <= most:
        document = _read(text, SMALL)
        if text.count(b":") == _keys(document):  # colons within strings count too, so no key is repeated
            return document
    try:
        shape = json_structure.scan(text, parts=PARTS, values=most)
        if (depth := json_structure.depth(text, shape)) > JSON_DEPTH:
            raise _malformed(
                "lists and objects are nested too deep, JSON nesting depth exceeds maximum allowed limit "
                f"({JSON_DEPTH}): {depth}"
            )
        if len(text) <= json_structure.SLICE:
            return _checked(text, shape.colons, shape.commas)
        return _joined(text, shape)
    except Malformed as error:
        raise _malformed(str(error)) from None
    except TooMuch as error:
        raise _beyond(error, most) from None


def _checked(text: bytes, colons: int, commas: int) -> Any:
    """A document with `colons` keys, if no key is repeated."""
    document = _read(text, commas)
    if colons and colons != _keys(document):
        return _slowly(text, commas)
    return document


def _joined(text: bytes, shape: Shape) -> Any:
    """A document from its pieces. `open_` are the lists and objects that continue after a piece, outermost first."""
    whole: Any = None
    open_: list[Any] = []
    for piece in json_structure.pieces(text, shape):
        value = _checked(piece.text, piece.colons, piece.text.count(b","))
        if piece.start:
            for level in range(piece.base, piece.start):
                there, within = open_[level], level + 1 < piece.start
                if isinstance(there, list):
                    there.extend(value[1:] if within else value)
                    value = value[0] if within else None
                else:
                    inner = value.pop(json_structure.MORE)
                    if both := there.keys() & value.keys():
                        raise _twice(min(both))
                    there.update(value)
                    value = inner
            del open_[piece.base + 1 :]
        else:
            whole = value
            open_.append(value)
        while len(open_) < piece.end:
            last = open_[-1]
            open_.append(last[-1] if isinstance(last, list) else next(reversed(last.values())))
    return whole


def _read(text: bytes, commas: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        words = [word for word in JSON_WORDS if word in text]
        if not words:
            raise _malformed(str(error)) from None
    # As values of lists they become strings, which `numbers` knows. Within a string that makes no JSON.
    quoted = text
    for word in words:
        for before in BEFORE:
            quoted = quoted.replace(before + word, before + b'"' + word + b'"')
    try:
        return orjson.loads(quoted)
    except orjson.JSONDecodeError:
        return _slowly(text, commas)


def _keys(value: Any) -> int:
    """The number of keys in all objects."""
    count, waiting = 0, [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            count += len(node)
            waiting += node.values()
        elif isinstance(node, list) and not {dict, list}.isdisjoint(map(type, node)):
            waiting += node
    return count


def _slowly(text: bytes, commas: int) -> Any:
    if commas > SLOW:
        raise BadRequest(
            f"failed to parse the request JSON buffer: {commas} values with a repeated key, or with NaN or Infinity "
            f"outside of lists, expected at most {SLOW}",
            code="json-too-many-values",
            hint="send binary data, or use each key once and numbers in lists only",
        )
    try:
        return json.loads(text, object_pairs_hook=_once, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        words = str(error) if isinstance(error, ValueError) else "lists and objects are nested too deep"
        raise _malformed(words) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _twice(key)
        result[key] = value
    return result


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise BadRequest(
            f"the number {text[:40]} is too large for a tensor",
            code="json-number-too-large",
            hint="send a smaller number, or Infinity",
        )
    return number


def _twice(key: str) -> BadRequest:
    return BadRequest(
        f"the key '{key[:80]}' is repeated in one object of the request",
        code="json-key-duplicate",
        hint="send each key once",
    )


def _beyond(error: TooMuch, most: int) -> BadRequest | ResourceExhausted:
    if error.what == "values":
        return ResourceExhausted(
            f"the request has {error.count} values in JSON, expected at most {most}",
            code="json-too-many-values",
            hint="send binary data",
        )
    if error.what == "parts":
        return BadRequest(
            f"the request has {error.count} lists, objects and colons, expected at most {PARTS}",
            code="json-too-many-parts",
            hint="send the numbers of a tensor in one flat list, or as binary data",
        )
    return BadRequest(
        f"the request has {error.count} bytes of JSON between two values of a list, expected at most "
        f"{json_structure.LONGEST}",
        code="json-value-too-long",
        hint="send binary data",
    )


def _malformed(words: str) -> BadRequest:
    return BadRequest(
        f"failed to parse the request JSON buffer: {words[:200]}",
        code="json-invalid",
        hint="send a valid JSON document",
    )


WORDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
}
NUMBER_DEPTH = 16  # lists within lists, as many as a shape may have dimensions
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
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}",
            code="json-datatype-not-supported",
            hint="use the binary data format",
        )
    if datatype not in NUMPY_DTYPES:
        raise BadRequest(
            f"invalid datatype for input {name}: '{datatype[:40]}', expected one of {', '.join(NUMPY_DTYPES)}",
            code="datatype-unknown",
            hint="send the datatype in the model metadata",
        )
    values = _flat(name, data)
    kind = NUMPY_DTYPES[datatype].kind
    allowed, words = KINDS[kind]
    kinds = set(itertools.chain.from_iterable(set(map(type, part)) for part in _parts(values)))
    if kind == "f" and str in kinds and NONFINITE.issuperset(v for v in values if isinstance(v, str)):
        kinds.discard(str)  # these words count as numbers
    if other := kinds - allowed:
        raise BadRequest(
            f"Unable to parse 'data' of input '{name}': {datatype} takes {words}, got {word(other.pop())}",
            code="json-value-wrong",
            hint=f"send {words} in 'data'",
        )
    if datatype == BYTES:
        try:
            return b"".join(validation.joined(value.encode() for value in part) for part in _parts(values))
        except UnicodeEncodeError:
            raise BadRequest(
                f"input '{name}' has half of a surrogate pair, which is not a character",
                code="string-not-utf8",
                hint="send complete Unicode characters",
            ) from None
    return b"".join(_array(name, datatype, part).tobytes() for part in _parts(values))


def fragment(tensor: OutputTensor) -> orjson.Fragment:
    """An output as a flat JSON list. Raises BadRequest for values that JSON cannot represent."""
    if tensor.datatype in RAW_ONLY:
        raise BadRequest(
            f"sending {tensor.datatype} data via JSON is not supported. Please use the binary data format for output "
            f"{tensor.name}",
            code="json-datatype-not-supported",
            hint="use the binary data format",
        )
    if tensor.datatype == BYTES:
        try:
            return orjson.Fragment(orjson.dumps([part.decode() for part in validation.parted(tensor.data)]))
        except UnicodeDecodeError:
            raise BadRequest(
                f"output '{tensor.name}' has bytes that are not UTF-8",
                code="output-not-utf8",
                hint="use the binary data format",
            ) from None
    return orjson.Fragment(written(np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.datatype])))


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


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[at : at + PART] for at in range(0, len(values), PART))


def _flat(name: str, data: Any) -> Sequence[Any]:
    if not isinstance(data, list):
        raise BadRequest(
            f"Unable to parse 'data' of input '{name}': expected a list, got {word(data)}",
            code="json-value-wrong",
            hint="send a list in 'data'",
        )
    for _ in range(NUMBER_DEPTH):
        if not data or not isinstance(data[0], list):
            return cast(list[Any], data)
        if any(not isinstance(item, list) for item in data):
            raise BadRequest(
                f"Unable to parse 'data' of input '{name}': one list has both lists and values",
                code="json-value-wrong",
                hint="send one flat list, or lists of equal depth",
            )
        data = list(itertools.chain.from_iterable(data))
    raise BadRequest(
        f"JSON nesting depth exceeds maximum allowed limit ({NUMBER_DEPTH}) in 'data' of input '{name}'",
        code="json-too-deep",
        hint="send one flat list",
    )


def _array(name: str, datatype: str, values: Sequence[Any]) -> Array:
    """A one-dimensional array, little-endian. Raises BadRequest for a number that does not fit the datatype."""
    dtype: Any = NUMPY_DTYPES[datatype]
    array: Array | None
    if dtype.kind == "f":
        try:
            wide = np.array(values, np.float64)
        except OverflowError:
            array = None
        else:
            with np.errstate(over="ignore"):
                array = wide.astype(dtype)
            if (np.isinf(array) & np.isfinite(wide)).any():
                array = None
    elif dtype.kind == "b" or not values:
        array = np.array(values, dtype)
    else:  # as Python's integers: numpy makes floats of those beyond 63 bits
        bounds = np.iinfo(dtype)
        fits = min(values) >= bounds.min and max(values) <= bounds.max
        array = np.array(values, dtype) if fits else None
    if array is None:
        raise BadRequest(
            f"input '{name}' has a value that does not fit {datatype}",
            code="value-out-of-datatype",
            hint=f"send values in the range of {datatype}",
        )
    return array


def word(value: Any) -> str:
    """The JSON name of the type of a value, or of a type."""
    return WORDS.get(value if isinstance(value, type) else type(value), "null")


def expect_fields(names: Iterable[str], known: Collection[str]) -> None:
    """Raises BadRequest for a field of a request that is not known."""
    for name in names:
        if name not in known:
            raise BadRequest(
                f"the request has the unknown field {name[:40]!r}",
                code="field-unknown",
                hint=advice(name[:40], sorted(known)),
            )
