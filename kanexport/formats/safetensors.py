"""safetensors files: a JSON header with names, types, shapes and offsets, then bytes.

Format: https://github.com/huggingface/safetensors (README, "Format"). Read here and
not with its library (1.3 MB), whose numpy side lacks bfloat16, whose errors name no
tensor, and which accepts a key twice. Both take 130 ms for 100 MB. The tests hold the
two against each other. As there, the tensors must fill the file without holes or overlaps.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import CheckpointError, DamagedCheckpoint
from kanexport.formats import torch_archive
from kanexport.formats.pickle_data import (
    AXIS_LIMIT,
    MAX_NAME_CHARACTERS,
    MAX_NUMBER_MAGNITUDE,
    SAVE_STATE_DICT,
    checkpoint_too_large,
)

MAX_HEADER_BYTES = 16 * 2**20  # it is parsed as a whole; a hundred bytes a tensor are usual
TENSOR_LIMIT = 30_000  # of one file, of any format; pykan has a dozen a layer
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
    "C64": "<c8",
}


def looks_like(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes with `head` as its first 9 bytes has this format."""
    return len(head) > 8 and head[8:9] == b"{" and 8 + struct.unpack("<Q", head[:8])[0] <= size


def read(data: bytes) -> dict[str, Array]:
    """The tensors by name, in the order of the header. Raises CheckpointError."""
    if not looks_like(data[:9], len(data)):
        raise DamagedCheckpoint("the safetensors header is longer than the file, which is cut off")
    start = 8 + struct.unpack("<Q", data[:8])[0]
    if start - 8 > MAX_HEADER_BYTES:
        raise checkpoint_too_large(f"the safetensors header has {start - 8} bytes, expected at most {MAX_HEADER_BYTES}")
    header = _header(data[8:start])
    size = len(data) - start
    tensors: dict[str, Array] = {}
    places: list[tuple[int, int]] = []
    for name, fields in header.items():
        if name == METADATA:
            continue
        code, shape, begin, end = _entry(name, fields)
        if end > size:
            short = name[:MAX_NAME_CHARACTERS]
            raise DamagedCheckpoint(f"tensor {short!r} exceeds the end of the file, which is cut off")
        places.append((begin, end))
        # A copy in the byte order of the machine.
        flat = np.frombuffer(data, np.dtype(TYPES[code]), math.prod(shape), start + begin if end > begin else 0)
        if code == "BF16":
            tensors[name] = torch_archive.widen(flat.reshape(shape))
        else:
            tensors[name] = np.array(flat.reshape(shape), dtype=flat.dtype.newbyteorder("="), order="C")
    at = 0  # the tensors fill the bytes after the header, each byte once
    for begin, end in sorted(places):
        if begin != at:
            raise DamagedCheckpoint("the tensors of the safetensors file overlap or leave holes")
        at = end
    if at != size:
        raise DamagedCheckpoint(f"the safetensors file has {size - at} bytes after its last tensor")
    return tensors


def metadata(data: bytes) -> dict[str, str]:
    """The texts of the header that are not tensors, by name. Raises CheckpointError."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    texts = _header(data[8:start]).get(METADATA, {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise DamagedCheckpoint("the metadata of the safetensors header is not a table of texts")
    return texts


def write(tensors: Mapping[str, Array], texts: Mapping[str, str]) -> bytes:
    """A file of tensors, of the types in TYPES, and metadata. Its header is padded to a multiple of 8 bytes."""
    codes = {np.dtype(text): code for code, text in TYPES.items() if code != "BF16"}
    header: dict[str, Any] = {METADATA: dict(texts)}
    parts, end = [], 0
    for name, array in tensors.items():
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        entry = {"dtype": codes[array.dtype.newbyteorder("<")], "shape": list(array.shape)}
        header[name] = entry | {"data_offsets": [end, end + len(data)]}
        end += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, *parts))


def _header(raw: bytes) -> dict[str, Any]:
    """The JSON object at the front. A repeated key is an error, because it would hide a tensor."""
    count = 0

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > TENSOR_LIMIT:
            raise checkpoint_too_large(f"the safetensors header names more than {TENSOR_LIMIT} tensors")
        members = dict(pairs)
        if len(members) != len(pairs):
            raise DamagedCheckpoint("the safetensors header has the same key twice")
        return members

    try:
        header = json.loads(raw.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint("the safetensors header is not valid JSON") from error
    if not isinstance(header, dict):
        raise DamagedCheckpoint("the safetensors header is not a JSON object")
    return header


def _entry(name: str, fields: Any) -> tuple[str, tuple[int, ...], int, int]:
    """The header entry of one tensor: a key of TYPES, its shape, and the bounds of its bytes after the header. Raises
    CheckpointError."""
    short = name[:MAX_NAME_CHARACTERS]
    if not isinstance(fields, dict) or set(fields) != FIELDS:
        raise DamagedCheckpoint(f"tensor {short!r} has no dtype, shape and data_offsets in the safetensors header")
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str) or code not in TYPES:
        raise CheckpointError(
            f"tensor {short!r} has type {str(code)[:40]!r}, which is not supported; supported: {', '.join(TYPES)}",
            code="tensor-type-unsupported",
            hint=f"convert the tensor, then {SAVE_STATE_DICT}",
        )
    # numpy refuses a shape whose other sizes make too many elements, also if one size is 0.
    if (
        not _numbers(shape)
        or len(shape) > AXIS_LIMIT
        or math.prod(size for size in shape if size) > MAX_NUMBER_MAGNITUDE
    ):
        raise DamagedCheckpoint(f"tensor {short!r} has an invalid shape in the safetensors header")
    if not _numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise DamagedCheckpoint(f"tensor {short!r} has invalid data_offsets in the safetensors header")
    begin, end = offsets
    expected = math.prod(shape) * np.dtype(TYPES[code]).itemsize
    if end - begin != expected:
        raise DamagedCheckpoint(
            f"tensor {short!r} of type {code} and shape {tuple(shape)} needs {expected} bytes, "
            f"the safetensors header gives it {end - begin}"
        )
    return code, tuple(shape), begin, end


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < MAX_NUMBER_MAGNITUDE for n in value)
