"""One tensor of a graph: its data is there once, as much as its shape says, in the graph or a file that may hold it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from kanserve.pb import onnx_graph_pb2 as pb

AXES = 32
EXTERNAL = 1  # data_location
KEYS = {"location", "offset", "length", "checksum"}  # of external data
DATA = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
STRING = 8
# By ONNX's number of the type: bytes of an element, and which field holds it where it is not raw.
TYPES: Mapping[int, tuple[int, str]] = {
    1: (4, "float_data"),
    **dict.fromkeys((2, 3, 9), (1, "int32_data")),
    **dict.fromkeys((4, 5, 10, 16), (2, "int32_data")),
    6: (4, "int32_data"),
    7: (8, "int64_data"),
    STRING: (0, "string_data"),
    11: (8, "double_data"),
    12: (4, "uint64_data"),
    13: (8, "uint64_data"),
}


def faults(tensor: pb.Tensor, beside: Mapping[str, int], *, strict: bool) -> Iterator[str]:
    """What is wrong with it. `beside`: files that may hold data, with their sizes; `strict`: only of known types."""
    yield from (f"tensor {tensor.name[:80]!r} {fault}" for fault in _faults(tensor, beside, strict=strict))


# radon: one thing after the other that data can be, each a line of its own.
def _faults(tensor: pb.Tensor, beside: Mapping[str, int], *, strict: bool) -> Iterator[str]:
    fields = [field for field in DATA if len(getattr(tensor, field))]
    if len(tensor.dims) > AXES or min(tensor.dims, default=0) < 0:
        yield f"has {len(tensor.dims)} axes, or one of a size below zero"
    elif len(fields) + tensor.HasField("raw_data") > 1 or tensor.HasField("segment"):
        yield "holds its data more than once, or in parts"
    elif tensor.data_location == EXTERNAL:
        yield from _external(tensor, fields, beside)
    elif tensor.data_location or tensor.external_data:
        yield "says of data in another file that it is here"
    elif tensor.data_type in TYPES:
        yield from _inside(tensor, fields)
    elif strict:
        yield f"is of type {tensor.data_type}, which is not served (graph_screen = relaxed allows it)"


def _inside(tensor: pb.Tensor, fields: list[str]) -> Iterator[str]:
    count = math.prod(tensor.dims)
    size, field = TYPES[tensor.data_type]
    if tensor.HasField("raw_data"):
        if tensor.data_type == STRING or len(tensor.raw_data) != count * size:
            yield f"has {len(tensor.raw_data)} bytes, its shape says {count * size}"
    elif fields not in ([], [field]) or len(getattr(tensor, field)) != count:
        yield f"has {len(getattr(tensor, field))} numbers, its shape says {count}"


def _external(tensor: pb.Tensor, fields: list[str], beside: Mapping[str, int]) -> Iterator[str]:
    """Where in which file it says that it lies."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    if fields or tensor.HasField("raw_data"):
        yield "holds data here and in another file"
    if len(facts) != len(tensor.external_data) or not facts.keys() <= KEYS:
        yield "does not say where its data lies as ONNX has it"
    elif location not in beside:
        yield f"keeps its data in {location[:80]!r}, which is not the version's own (external data)"
    else:
        yield from _placed(tensor, facts, beside[location])


def _placed(tensor: pb.Tensor, facts: Mapping[str, str], held: int) -> Iterator[str]:
    """In a file of `held` bytes."""
    size, _ = TYPES.get(tensor.data_type, (0, ""))
    needed = math.prod(tensor.dims) * size
    offset, length = (_number(facts.get(key, usual)) for key, usual in (("offset", "0"), ("length", str(needed))))
    if not size or offset < 0 or length != needed or offset + needed > held:
        yield (
            f"has {needed} bytes by its shape, and says that it has {length} at {offset} of {facts['location']}, "
            f"which has {held} (external data)"
        )


def _number(text: str) -> int:
    """Of a few decimal digits; else -1."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
