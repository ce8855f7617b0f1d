"""safetensors files: a JSON header with names, types, shapes and offsets, then bytes.

Format: https://github.com/huggingface/safetensors (README, "Format"). Read here and
not with its library, whose numpy side lacks bfloat16 and whose errors name no tensor;
the tests hold the two against each other. As there, the tensors must fill the file
without holes or overlaps.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import CheckpointError
from kanexport.files import bfloat16
from kanexport.files.pickles import AXES_LIMIT, NUMBER_LIMIT, SAVE_STATE_DICT

HEADER_LIMIT = 16 * 2**20  # bytes
TENSOR_LIMIT = 30_000
NAME_LIMIT = 200  # characters of a name that an error repeats
METADATA = "__metadata__"
FIELDS = {"dtype", "shape", "data_offsets"}

Array = npt.NDArray[Any]

# The format's names -> numpy types, little endian. BF16 is widened.
TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def looks_like(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` (9 bytes) is of this format."""
    return len(head) > 8 and head[8:9] == b"{" and 8 + struct.unpack("<Q", head[:8])[0] <= size


def read(data: bytes) -> dict[str, Array]:
    """The tensors by name, in the header's order. Raises CheckpointError."""
    if not looks_like(data[:9], len(data)):
        raise CheckpointError("the safetensors header is longer than the file, which is cut off")
    start = 8 + struct.unpack("<Q", data[:8])[0]
    if start - 8 > HEADER_LIMIT:
        raise CheckpointError(f"the safetensors header has {start - 8} bytes, more than {HEADER_LIMIT}")
    header = _header(data[8:start])
    found: dict[str, Array] = {}
    places: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == METADATA:
            continue
        code, shape, begin, end = _entry(name, entry)
        if end > len(data) - start:
            raise CheckpointError(f"tensor {name[:NAME_LIMIT]!r} reaches beyond the end of the file, which is cut off")
        flat = np.frombuffer(data, np.dtype(TYPES[code]), math.prod(shape), start + begin if end > begin else 0)
        found[name] = _array(flat, code, shape)
        places.append((begin, end))
    at = 0
    for begin, end in sorted(places):
        if begin != at:
            raise CheckpointError("the tensors of the safetensors file overlap or leave holes")
        at = end
    if at != len(data) - start:
        raise CheckpointError(f"the safetensors file has {len(data) - start - at} bytes after its last tensor")
    return found


def _header(raw: bytes) -> dict[str, Any]:
    """The JSON object at the front. A key that stands twice would hide a tensor."""
    count = 0

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > TENSOR_LIMIT:
            raise CheckpointError(f"the safetensors header names more than {TENSOR_LIMIT} tensors")
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointError("the safetensors header has the same key twice")
        return found

    try:
        header = json.loads(raw.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("the safetensors header is damaged: it is not JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError("the safetensors header is not a JSON object")
    return header


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape and place of one tensor, each checked."""
    short = name[:NAME_LIMIT]
    if not isinstance(entry, dict) or set(entry) != FIELDS:
        raise CheckpointError(f"tensor {short!r} has no dtype, shape and data_offsets in the safetensors header")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in TYPES:
        raise CheckpointError(
            f"tensor {short!r} is of type {str(code)[:40]!r}, which is not read",
            hint=f"read are {', '.join(TYPES)}; convert it, then {SAVE_STATE_DICT}",
        )
    if not _numbers(shape) or len(shape) > AXES_LIMIT or math.prod(n for n in shape if n) > NUMBER_LIMIT:
        raise CheckpointError(f"tensor {short!r} has no valid shape in the safetensors header")
    if not _numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"tensor {short!r} has no valid data_offsets in the safetensors header")
    begin, end = offsets
    expected = math.prod(shape) * np.dtype(TYPES[code]).itemsize
    if end - begin != expected:
        raise CheckpointError(
            f"tensor {short!r} of type {code} and shape {tuple(shape)} takes {expected} bytes, "
            f"the safetensors header gives it {end - begin}"
        )
    return code, tuple(shape), begin, end


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < NUMBER_LIMIT for n in value)


def _array(flat: Array, code: str, shape: tuple[int, ...]) -> Array:
    """A copy in the machine's byte order."""
    if code == "BF16":
        return bfloat16.widen(flat.reshape(shape))
    return np.array(flat.reshape(shape), dtype=flat.dtype.newbyteorder("="), order="C")
