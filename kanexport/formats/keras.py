"""Reader of Keras `.keras` files: a zip of `config.json`, which describes the layers, and the weights in HDF5.

Read without Keras: nothing in the config is constructed, it is handed on as plain data.
Own HDF5 reader of 200 lines, in place of h5py: h5py brings 17 MB, opens any file of the machine that a checkpoint names
as external storage, loads filter plug-ins, and takes 4.6 ms, not 0.4, for a file of 19 KB.
"""

from __future__ import annotations

import functools
import io
import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import CHECK_FAMILY, SAVE_AGAIN, USE_MODULE, CheckpointError, DamagedCheckpoint, ExportError
from kanexport.formats.torch_archive import DAMAGE, MAX_UNPACKED_RATIO, MIN_PACKED_BYTES

Array = npt.NDArray[Any]

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
SAVE_WITH_KERAS = "save the model again with model.save('model.keras') of Keras 3"
layout_unsupported = functools.partial(CheckpointError, code="checkpoint-layout-unsupported", hint=SAVE_WITH_KERAS)
OTHER_WAYS = "rebuild the model in PyTorch, and export it with --module"
# Hints for PyTorch files, and those for a file of Keras.
HINTS = {
    f"{USE_MODULE} --checkpoint FILE": OTHER_WAYS,
    USE_MODULE: OTHER_WAYS,
    CHECK_FAMILY: SAVE_WITH_KERAS,
    SAVE_AGAIN: SAVE_WITH_KERAS,
}
BESIDE = "keras"  # what the config is called beside the tensors
MAX_CONFIG_BYTES = 16 * 2**20


def begins_like(head: bytes) -> bool:
    """Whether the first bytes of a zip archive are those of a `.keras` file."""
    return head[30:].startswith(b"metadata.json") and b'"keras_version"' in head


def advise(error: ExportError) -> None:
    """Replace advice for PyTorch files in the hint of an error by advice for a `.keras` file."""
    for text, other in HINTS.items():
        error.hint = error.hint.replace(text, other)


def layers(beside: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The layers in the config of a file; empty if it is not one of a Keras model."""
    model = beside.get(BESIDE)
    config = model.get("config") if isinstance(model, dict) else None
    described = config.get("layers") if isinstance(config, dict) else None
    return [layer for layer in described if isinstance(layer, dict)] if isinstance(described, list) else []


def class_name(layer: Mapping[str, Any]) -> str:
    """The class of a layer or a model in a config."""
    return str(layer.get("class_name", ""))


def looks_like(data: bytes) -> bool:
    """Whether a zip archive has the entries of a `.keras` file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {CONFIG, WEIGHTS} <= set(archive.namelist())
    except DAMAGE:
        return False


def read(data: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays by their HDF5 paths, and the config under "keras". Raises CheckpointError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            config = _entry(archive, CONFIG, MAX_CONFIG_BYTES)
            weights = _entry(archive, WEIGHTS, MAX_UNPACKED_RATIO * max(len(data), MIN_PACKED_BYTES))
    except DAMAGE as error:
        raise DamagedCheckpoint("the .keras file is damaged") from error
    try:
        parsed = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{CONFIG} of the .keras file is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise DamagedCheckpoint(f"{CONFIG} of the .keras file does not describe a model")
    return read_hdf5(weights), {BESIDE: parsed}


def _entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """One entry, if its size is within the limit. Raises CheckpointError."""
    entry = archive.getinfo(name)
    if entry.file_size > most:
        raise CheckpointError(
            f"{name} unpacks to {entry.file_size} bytes, expected at most {most}",
            code="checkpoint-too-large",
            hint="save the model again with Keras",
        )
    with archive.open(entry) as file:
        return file.read(most + 1)[: entry.file_size]


MAGIC = b"\x89HDF\r\n\x1a\n"
OBJECT_LIMIT = 50_000  # groups, arrays and blocks of their headers
DEPTH_LIMIT = 32  # groups inside one another, and levels of their trees
RANK_LIMIT = 32
DATASPACE, DATATYPE, LAYOUT, FILTERS, CONTINUATION, GROUP = 0x01, 0x03, 0x08, 0x0B, 0x10, 0x11
READ_RATIO, SMALL = 4, 2**16  # bytes that are read for one of the file: every block is there once
SHARED = 0x02  # a message's flag
INTEGER, FLOAT = 0, 1  # classes of types
COMPACT, CONTIGUOUS = 0, 1  # classes of layouts
SYMBOLIC_LINK = 2  # of a group's entry
# By size: bit offset, precision, where the exponent is and its size, the same of the mantissa, the bias.
IEEE = {2: (0, 16, 10, 5, 0, 10, 15), 4: (0, 32, 23, 8, 0, 23, 127), 8: (0, 64, 52, 11, 0, 52, 1023)}


@dataclass(slots=True)
class _File:
    """An HDF5 file that is being read.

    base        position in `data` at which addresses begin
    bytes_left  bytes that may still be read
    left        objects that may still be read
    arrays      arrays by path
    """

    data: bytes
    base: int
    bytes_left: int
    left: int = OBJECT_LIMIT
    arrays: dict[str, Array] = field(default_factory=dict)

    def at(self, address: int, size: int) -> bytes:
        """Read `size` bytes. Raises CheckpointError if the file ends before, or if too many bytes are read in total."""
        start = self.base + address
        if start + size > len(self.data):
            raise DamagedCheckpoint("the HDF5 file is cut off, or refers to a place after its end")
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise DamagedCheckpoint("the HDF5 file describes more data than it has")
        return self.data[start : start + size]

    def block(self, address: int, mark: bytes, size: int) -> bytes:
        """Read a block that begins with a mark. Raises CheckpointError for another block, or for too many."""
        self.take()
        data = self.at(address, size)
        if not data.startswith(mark):
            raise DamagedCheckpoint(f"the HDF5 file has no {mark.decode()} block at a place that needs one")
        return data

    def take(self) -> None:
        """Count one object. Raises CheckpointError if there are too many, such as in a group that contains itself."""
        self.left -= 1
        if self.left < 0:
            raise DamagedCheckpoint(f"the HDF5 file has more than {OBJECT_LIMIT} objects, or contains itself")


def read_hdf5(data: bytes) -> dict[str, Array]:
    """All arrays by their paths, such as "layers/dense/vars/0". Raises CheckpointError."""
    if not data.startswith(MAGIC):
        raise DamagedCheckpoint("the weights are not an HDF5 file")
    try:
        version, offsets, lengths = struct.unpack_from("<BxxxxBB", data, 8)
        if version not in (0, 1) or (offsets, lengths) != (8, 8):
            raise layout_unsupported(
                f"the HDF5 file has superblock version {version}, expected 0 or 1, as Keras writes it"
            )
        start = 24 + 4 * version
        (base,) = struct.unpack_from("<Q", data, start)
        (root,) = struct.unpack_from("<Q", data, start + 40)
        file = _File(data, base, READ_RATIO * max(len(data), SMALL))
        _visit(file, root, "", 0)
    except struct.error as error:
        raise DamagedCheckpoint("the HDF5 file is cut off") from error
    return file.arrays


def _visit(file: _File, address: int, path: str, depth: int) -> None:
    """The arrays of one object, which is a group or an array."""
    if depth > DEPTH_LIMIT:
        raise DamagedCheckpoint(f"the HDF5 file nests groups more than {DEPTH_LIMIT} deep")
    messages = dict(_messages(file, address))
    if GROUP in messages:
        tree, heap = struct.unpack_from("<QQ", messages[GROUP])
        size, place = struct.unpack_from("<8xQ8xQ", file.block(heap, b"HEAP", 32))
        names = file.at(place, size)  # of the group, each followed by a zero byte
        for name, child in _entries(file, tree, names, 0):
            if not name or "/" in name:
                raise DamagedCheckpoint("invalid object name in the HDF5 file")
            _visit(file, child, f"{path}/{name}" if path else name, depth + 1)
    elif LAYOUT in messages:
        if path in file.arrays:
            raise DamagedCheckpoint(f"the HDF5 file has {path[:200]!r} twice")
        file.arrays[path] = _array(file, messages, path)


def _messages(file: _File, address: int) -> Iterator[tuple[int, bytes]]:
    """The type numbers and the data of the messages of an object header, and of its continuations."""
    version, count, size = struct.unpack("<BxHxxxxI", file.at(address, 12))
    if version != 1:
        raise layout_unsupported(
            f"the HDF5 file has object headers of version {version}, expected 1, as Keras writes it"
        )
    blocks = [(address + 16, size)]
    while blocks:
        file.take()
        start, length = blocks.pop(0)
        block, at = file.at(start, length), 0
        while at + 8 <= length and count > 0:
            kind, amount, flags = struct.unpack_from("<HHB", block, at)
            data = block[at + 8 : at + 8 + amount]
            if len(data) < amount:
                raise DamagedCheckpoint("the HDF5 file has a message that exceeds its header")
            if flags & SHARED and kind in (DATASPACE, DATATYPE, LAYOUT, FILTERS):
                raise layout_unsupported(
                    "the HDF5 file stores a type or a shape outside its object, which is not supported"
                )
            if kind == CONTINUATION:
                blocks.append(struct.unpack_from("<QQ", data))
            yield kind, data
            at, count = at + 8 + amount, count - 1


def _entries(file: _File, address: int, names: bytes, depth: int) -> Iterator[tuple[str, int]]:
    """Names and objects of the entries of a group."""
    if depth > DEPTH_LIMIT:
        raise DamagedCheckpoint("the HDF5 file has a tree that is too deep")
    kind, level, used = struct.unpack_from("<4xBBH", file.block(address, b"TREE", 24))
    if kind != 0:
        raise DamagedCheckpoint("the HDF5 file has a tree of another kind, expected the tree of a group")
    children = struct.unpack(f"<{2 * used}Q", file.at(address + 24, 16 * used))[1::2]
    for child in children:
        if level:
            yield from _entries(file, child, names, depth + 1)
            continue
        (count,) = struct.unpack_from("<6xH", file.block(child, b"SNOD", 8))
        for at, symbol, cache in struct.iter_unpack("<QQI20x", file.at(child + 8, 40 * count)):
            end = names.find(b"\0", at)
            if cache == SYMBOLIC_LINK or end < 0 or at >= len(names):
                raise DamagedCheckpoint("the HDF5 file has a link, or a name outside its heap")
            yield names[at:end].decode("utf-8", "replace"), symbol


def _array(file: _File, messages: dict[int, bytes], path: str) -> Array:
    """The values of an array, contiguous."""
    if FILTERS in messages:
        raise layout_unsupported(f"{path[:200]!r} is compressed, which is not supported")
    if DATASPACE not in messages or DATATYPE not in messages:
        raise DamagedCheckpoint(f"{path[:200]!r} has no shape or no type")
    version, rank = struct.unpack_from("<BB", messages[DATASPACE])
    if version not in (1, 2) or rank > RANK_LIMIT:
        raise layout_unsupported(
            f"the HDF5 file has a shape of version {version} with {rank} axes, which is not supported"
        )
    shape = struct.unpack_from(f"<{rank}Q", messages[DATASPACE], 8 if version == 1 else 4)
    dtype = _dtype(messages[DATATYPE], path)
    size = dtype.itemsize * math.prod(shape)
    if size > len(file.data):
        raise DamagedCheckpoint(f"{path[:200]!r} is larger than the file")
    values = _values(file, messages[LAYOUT], size, path) if size else b""
    return np.frombuffer(values, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _dtype(data: bytes, path: str) -> np.dtype[Any]:
    """The numpy type of little-endian integers and IEEE floats. Raises CheckpointError."""
    first, bits, size = struct.unpack_from("<BBxxI", data)
    kind, big = first & 0x0F, bits & 1
    if kind == FLOAT and not big and size in IEEE and struct.unpack_from("<HHBBBBI", data, 8) == IEEE[size]:
        return np.dtype(f"<f{size}")
    if kind == INTEGER and not big and size in (1, 2, 4, 8) and struct.unpack_from("<HH", data, 8) == (0, 8 * size):
        return np.dtype(f"<{'i' if bits & 8 else 'u'}{size}")
    raise CheckpointError(
        f"{path[:200]!r} has a type that is not supported, expected floats or integers",
        code="tensor-type-unsupported",
        hint="save the model with float32 weights",
    )


def _values(file: _File, data: bytes, size: int, path: str) -> bytes:
    version, kind = struct.unpack_from("<BB", data)
    if version not in (3, 4) or kind not in (COMPACT, CONTIGUOUS):
        raise layout_unsupported(f"{path[:200]!r} is stored in chunks or in an old layout, which is not supported")
    if kind == COMPACT:
        (length,) = struct.unpack_from("<H", data, 2)
        values = data[4 : 4 + length]
    else:
        place, length = struct.unpack_from("<QQ", data, 2)
        values = file.at(place, length)
    if len(values) != size or length != size:
        raise DamagedCheckpoint(f"{path[:200]!r} has {len(values)} bytes, expected {size} from its shape and type")
    return values
