"""Keras' `.keras` files: a zip of `config.json`, which says what the layers are, and their weights in HDF5.

Read without Keras: nothing in the config is constructed, it is handed on as plain data.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy.typing as npt

from kanexport.errors import CheckpointError
from kanexport.files import hdf5
from kanexport.files.torchzip import DAMAGE, MAX_UNPACKED_RATIO, MIN_PACKED_BYTES

Array = npt.NDArray[Any]

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
BESIDE = "keras"  # what the config is called beside the tensors
MAX_CONFIG_BYTES = 16 * 2**20


def looks_like(data: bytes) -> bool:
    """Whether a zip archive has what a `.keras` file has."""
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
        raise CheckpointError("the .keras file is damaged; copy it again") from error
    try:
        parsed = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{CONFIG} of the .keras file is no JSON") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{CONFIG} of the .keras file describes no model")
    return hdf5.read(weights), {BESIDE: parsed}


def _entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """One entry, if it is no larger than it should be. Raises CheckpointError."""
    entry = archive.getinfo(name)
    if entry.file_size > most:
        raise CheckpointError(f"{name} would unpack to {entry.file_size} bytes, more than this reader takes")
    with archive.open(entry) as file:
        return file.read(most + 1)[: entry.file_size]
