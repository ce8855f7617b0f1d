"""`torch.save` files: a zip of one small pickle and raw storages.

Read without torch. Nothing is extracted to disk, nothing in the pickle is
executed (see `pickles`), every size is checked before bytes are read, and
tensors are copied out contiguous: a saved view can be a hundred times smaller
than the storage it came with.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kanexport.errors import CheckpointError, DamagedCheckpoint, UnsafeCheckpoint
from kanexport.formats import pickle_data
from kanexport.formats.pickle_data import (
    MAX_NAME_CHARACTERS,
    SAVE_STATE_DICT,
    Name,
    Opaque,
    TensorRef,
    checkpoint_too_large,
    checkpoint_without_tensors,
)

MAGIC = b"PK\x03\x04"
MAX_PICKLE_BYTES = 64 * 2**20  # unpacked; it holds names and shapes, no weights
MAX_UNPACKED_BYTES = 2 * 2**30  # all entries together are held in memory
MAX_UNPACKED_RATIO = 20  # bytes unpacked for one packed; torch and Keras store without packing, so real files have 1
MIN_PACKED_BYTES = 2**16  # what a smaller file counts as: the pickle of a small model packs well
ENTRY_LIMIT = 50_000  # of the archive, and as many values in its dictionaries; a tensor needs one
EMPTY_LIMIT = 2**40  # elements that the other axes of a tensor without values would make; numpy refuses far more
MAX_DICTIONARY_DEPTH = 8  # dictionaries inside one another
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# All that zipfile raises for a damaged archive: RuntimeError for an encrypted entry and for a packing that it lacks,
# ValueError and OSError for places that are none.
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)

Array = npt.NDArray[Any]

# torch storage class -> numpy type. BFloat16 is widened.
STORAGE_TYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}


@dataclass(frozen=True, slots=True)
class _Archive:
    """A torch.save file: its zip, its folder and its byte order."""

    zip: zipfile.ZipFile
    root: str  # the one folder all entries share, with its slash
    order: Literal["<", ">"]

    def entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self.zip.getinfo(self.root + name)
        except KeyError as error:
            raise DamagedCheckpoint(
                f"the file has no entry {name[:200]!r}; it is cut off or not a checkpoint"
            ) from error

    def read(self, entry: zipfile.ZipInfo) -> bytes:
        """Exactly the bytes that the directory declares. More bytes are not unpacked; with fewer bytes, a tensor
        could exceed them."""
        if entry.compress_type not in PACKINGS:
            raise CheckpointError(
                f"an entry of the file has compression type {entry.compress_type}, which torch does not use",
                code="checkpoint-layout-unsupported",
                hint=SAVE_STATE_DICT,
            )
        try:
            with self.zip.open(entry) as file:
                data = file.read(entry.file_size)
        except DAMAGE as error:
            raise DamagedCheckpoint("an entry of the file is damaged") from error
        if len(data) != entry.file_size:
            raise DamagedCheckpoint("an entry of the file is shorter than its directory declares")
        return data


@dataclass(slots=True)
class _Budget:
    """The number of values, and the bytes of their tensors, that the dictionaries of one file may still have.

    A small file can name the same storage, or the same dictionary, a million times."""

    values: int
    bytes: int

    def take(self, size: int) -> None:
        """Subtract a value of `size` bytes. Raises CheckpointError if too little is left."""
        self.values -= 1
        self.bytes -= size
        if self.values < 0 or self.bytes < 0:
            raise DamagedCheckpoint("the file describes more or larger tensors than it has")


def begins_like(head: bytes) -> bool:
    """Whether the first bytes of a zip archive are those of torch.save: the first entry is the pickle. The
    length of the entry's name is at 26, the name at 30."""
    return head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b"/data.pkl")


def read(data: bytes) -> dict[str, Any]:
    """The saved dictionary, with tensors as contiguous numpy arrays.

    Nested dictionaries keep their nesting, up to MAX_DICTIONARY_DEPTH. A value that cannot be read as a
    tensor is an `Opaque` that says why. Raises CheckpointError or UnsafeCheckpoint; see the module
    text for what is refused.
    """
    archive = _open(data)
    entry = archive.entry("data.pkl")
    if entry.file_size > MAX_PICKLE_BYTES:
        raise checkpoint_too_large(
            f"the pickle unpacks to {entry.file_size} bytes, expected at most {MAX_PICKLE_BYTES}"
        )
    value = pickle_data.read(archive.read(entry))
    if isinstance(value, Opaque | Name):
        raise UnsafeCheckpoint(
            f"the file is a pickled object of class {value}, which is code; nothing was executed",
            code="checkpoint-is-an-object",
            hint=SAVE_STATE_DICT,
        )
    if not isinstance(value, dict):
        kind = "single tensor" if isinstance(value, TensorRef) else type(value).__name__
        raise checkpoint_without_tensors(f"the file contains a {kind}, expected a state dict")
    return _Resolver(archive, _Budget(ENTRY_LIMIT, _unpacked_bytes(len(data)))).mapping(value, depth=0)


def _unpacked_bytes(packed: int) -> int:
    """The bytes to which a file of `packed` bytes may unpack."""
    return min(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * max(packed, MIN_PACKED_BYTES))


def _open(data: bytes) -> _Archive:
    """The archive, with entries and sizes checked. Raises CheckpointError if it is not that of a state dict."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (*DAMAGE, struct.error) as error:
        raise DamagedCheckpoint("the file is cut off, or is not a zip archive") from error
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(entries) > ENTRY_LIMIT or len(set(names)) != len(names):
        raise DamagedCheckpoint("the archive has duplicate entries, or too many")
    unpacked, most = sum(entry.file_size for entry in entries), _unpacked_bytes(len(data))
    if unpacked > most:
        raise checkpoint_too_large(f"the archive unpacks to {unpacked} bytes, expected at most {most}")
    pickled = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise CheckpointError(
            "the archive is not a torch checkpoint: it has no single NAME/data.pkl",
            code="checkpoint-format-unknown",
            hint=SAVE_STATE_DICT,
        )
    root = pickled[0].removesuffix("data.pkl")
    if root + "constants.pkl" in names:
        raise CheckpointError(
            "the file is a TorchScript module, expected a state dict",
            code="checkpoint-is-torchscript",
            hint=SAVE_STATE_DICT,
        )
    little = _Archive(archive, root, "<")
    if root + "byteorder" in names and little.read(little.entry("byteorder")).strip() == b"big":
        return _Archive(archive, root, ">")
    return little


class _Resolver:
    """Replaces tensor references by arrays; other values stay as they are."""

    def __init__(self, archive: _Archive, budget: _Budget) -> None:
        self.archive, self.budget = archive, budget
        self.storages: dict[str, bytes] = {}

    def mapping(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in value.items():
            name = str(key)
            if name in result:  # 0 and "0"
                raise DamagedCheckpoint(f"the file has two values under the name {name[:80]!r}")
            self.budget.take(0)
            if isinstance(item, TensorRef):
                item = self.tensor(item, name[:MAX_NAME_CHARACTERS])
            elif isinstance(item, dict):
                deep = depth >= MAX_DICTIONARY_DEPTH
                item = Opaque("a dictionary that is nested too deep") if deep else self.mapping(item, depth + 1)
            result[name] = item
        return result

    def tensor(self, ref: TensorRef, key: str) -> Array | Opaque:
        storage = ref.storage
        code = STORAGE_TYPES.get(storage.kind)
        if code is None:
            return Opaque("torch.Tensor", f"stored as {storage.kind[:MAX_NAME_CHARACTERS]}, which is not supported")
        dtype = np.dtype(code).newbyteorder(self.archive.order)
        entry = self.archive.entry(f"data/{storage.key}")
        if entry.file_size != storage.count * dtype.itemsize:
            raise DamagedCheckpoint(
                f"tensor {key!r}: storage {storage.key[:80]!r} has {entry.file_size} bytes, "
                f"expected {storage.count} x {dtype.itemsize}"
            )
        _check_view(ref, key)
        self.budget.take(math.prod(ref.size) * dtype.itemsize)
        if storage.key not in self.storages:
            self.storages[storage.key] = self.archive.read(entry)
        values = _copy(ref, np.frombuffer(self.storages[storage.key], dtype=dtype))
        values = np.conjugate(values) if ref.conjugate else values
        return np.negative(values) if ref.negative else values


def _copy(ref: TensorRef, flat: Array) -> Array:
    """The view, contiguous and in the byte order of the machine."""
    if 0 in ref.size:
        view = np.zeros(ref.size, dtype=flat.dtype)
    else:
        # The stride along an axis of one element is never used, and may be anything.
        steps = [step * flat.itemsize if n > 1 else 0 for n, step in zip(ref.size, ref.stride, strict=True)]
        view = np.lib.stride_tricks.as_strided(flat[ref.offset :], ref.size, steps, writeable=False)
    if ref.storage.kind == "BFloat16Storage":
        return widen(view)
    return np.array(view, dtype=flat.dtype.newbyteorder("="), order="C")


def _check_view(ref: TensorRef, key: str) -> None:
    """Check that the view is inside its storage, because as_strided does not check it. Strides of zero repeat
    values; the budget limits the size of such a view."""
    if len(ref.size) != len(ref.stride):
        raise DamagedCheckpoint(f"tensor {key!r} has {len(ref.size)} sizes and {len(ref.stride)} strides")
    count = math.prod(ref.size)
    last = ref.offset + sum((n - 1) * step for n, step in zip(ref.size, ref.stride, strict=True))
    if count and last >= ref.storage.count:
        raise DamagedCheckpoint(f"tensor {key!r} of size {ref.size} exceeds its storage of {ref.storage.count} values")
    if not count and (ref.offset > ref.storage.count or math.prod(n for n in ref.size if n) > EMPTY_LIMIT):
        raise DamagedCheckpoint(f"tensor {key!r} of size {ref.size} is empty, but does not fit its storage")


_KEY = "stored"
_WIDENED = np.dtype(np.float32, metadata={_KEY: "bfloat16"})


def widen(bits: Array) -> Array:
    """The float32 values, contiguous and of the same shape, of bfloat16 values in any byte order."""
    wide = np.ascontiguousarray(bits.astype("u4") << 16)
    return wide.view(_WIDENED).reshape(bits.shape)


def stored_dtype(array: Array) -> str:
    """The type in the file: "bfloat16", or the type of the array."""
    metadata: Mapping[str, Any] = array.dtype.metadata or {}
    return str(metadata.get(_KEY, array.dtype.name))
