"""`torch.save` files: a zip of one small pickle and raw storages.

Read without torch. Nothing is extracted to disk, nothing in the pickle is
executed (see `pickles`), every size is checked before bytes are read, and
tensors are copied out contiguous: a saved view can be a hundred times smaller
than the storage it came with.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kanexport.errors import CheckpointError
from kanexport.formats import pickles
from kanexport.formats.pickles import TensorRef

MAGIC = b"PK\x03\x04"
PICKLE_LIMIT = 64 * 2**20  # bytes
TOTAL_LIMIT = 2 * 2**30  # bytes, all entries unpacked
RATIO_LIMIT = 20  # unpacked to packed; torch stores, so real files have 1
ENTRY_LIMIT = 100_000

Array = npt.NDArray[Any]

# torch storage class -> numpy type. BFloat16 is widened below.
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
}


@dataclass(frozen=True, slots=True)
class _Archive:
    zip: zipfile.ZipFile
    root: str  # the one folder all entries share, with its slash
    order: Literal["<", ">"]

    def entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self.zip.getinfo(self.root + name)
        except KeyError as error:
            raise CheckpointError(f"the file has no entry {name!r}; it is cut off or no checkpoint") from error

    def read(self, entry: zipfile.ZipInfo) -> bytes:
        try:
            return self.zip.read(entry)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise CheckpointError("an entry of the file is damaged; copy the file again") from error


def read(data: bytes) -> dict[str, Any]:
    """The saved dictionary, with tensors as contiguous numpy arrays.

    Nested dictionaries keep their nesting. Raises CheckpointError or
    UnsafeCheckpoint; see the module text for what is refused.
    """
    archive = _open(data)
    entry = archive.entry("data.pkl")
    if entry.file_size > PICKLE_LIMIT:
        raise CheckpointError(f"the pickle unpacks to {entry.file_size} bytes, more than {PICKLE_LIMIT}")
    value = pickles.read(archive.read(entry))
    if not isinstance(value, dict):
        raise CheckpointError(f"the file holds {_kind(value)}, expected a state dict", hint=pickles.SAVE_STATE_DICT)
    return _resolve_dict(archive, value, {}, depth=0)


def _open(data: bytes) -> _Archive:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise CheckpointError("the file is cut off or no zip archive; copy it again") from error
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(entries) > ENTRY_LIMIT or len(set(names)) != len(names):
        raise CheckpointError("the archive has duplicate or far too many entries")
    total = sum(entry.file_size for entry in entries)
    if total > TOTAL_LIMIT or total > RATIO_LIMIT * max(len(data), 2**16):
        raise CheckpointError(f"the archive would unpack to {total} bytes, more than this reader takes")
    pickled = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise CheckpointError("the archive holds no torch checkpoint (one NAME/data.pkl)", hint=pickles.SAVE_STATE_DICT)
    root = pickled[0].removesuffix("data.pkl")
    if root + "constants.pkl" in names:
        raise CheckpointError("the file is a TorchScript module", hint=pickles.SAVE_STATE_DICT)
    order: Literal["<", ">"] = "<"
    if root + "byteorder" in names:
        order = ">" if archive.read(root + "byteorder").strip() == b"big" else "<"
    return _Archive(archive, root, order)


def _resolve_dict(archive: _Archive, value: dict[Any, Any], seen: dict[str, bytes], depth: int) -> dict[str, Any]:
    """Replace every tensor reference; leave other values as they are."""
    if depth > 8:
        raise CheckpointError("the file nests dictionaries more than 8 deep")
    result: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, TensorRef):
            result[str(key)] = _tensor(archive, item, str(key), seen)
        elif isinstance(item, dict):
            result[str(key)] = _resolve_dict(archive, item, seen, depth + 1)
        else:
            result[str(key)] = item
    return result


def _tensor(archive: _Archive, ref: TensorRef, key: str, seen: dict[str, bytes]) -> Array:
    storage = ref.storage
    code = STORAGE_TYPES.get(storage.kind)
    if code is None:
        raise CheckpointError(f"tensor {key!r} has a storage of type {storage.kind}, which is not read")
    dtype = np.dtype(code).newbyteorder(archive.order)
    entry = archive.entry(f"data/{storage.key}")
    if entry.file_size != storage.count * dtype.itemsize:
        raise CheckpointError(
            f"tensor {key!r}: storage {storage.key} has {entry.file_size} bytes, "
            f"expected {storage.count} x {dtype.itemsize}"
        )
    _check_view(ref, key)
    if storage.key not in seen:
        seen[storage.key] = archive.read(entry)
    flat = np.frombuffer(seen[storage.key], dtype=dtype)
    strides = tuple(step * dtype.itemsize for step in ref.stride)
    view = np.lib.stride_tricks.as_strided(flat[ref.offset :], ref.size, strides, writeable=False)
    if storage.kind == "BFloat16Storage":
        return np.ascontiguousarray(view.astype("u4") << 16).view("f4").reshape(ref.size)
    return np.array(view, dtype=dtype.newbyteorder("="), order="C")


def _check_view(ref: TensorRef, key: str) -> None:
    """The view lies inside its storage and is no larger: as_strided trusts us."""
    if len(ref.size) != len(ref.stride):
        raise CheckpointError(f"tensor {key!r} has {len(ref.size)} sizes and {len(ref.stride)} strides")
    count = math.prod(ref.size)
    last = ref.offset + sum((n - 1) * step for n, step in zip(ref.size, ref.stride, strict=True))
    if count and (last >= ref.storage.count or count > ref.storage.count):
        raise CheckpointError(
            f"tensor {key!r} of size {ref.size} reaches beyond its storage of {ref.storage.count} values"
        )
    if not count and ref.offset > ref.storage.count:
        raise CheckpointError(f"tensor {key!r} starts beyond its storage")


def _kind(value: object) -> str:
    return "a single tensor" if isinstance(value, TensorRef) else f"a {type(value).__name__}"
