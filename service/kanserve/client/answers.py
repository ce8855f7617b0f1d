"""What a server answers, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kanexport.shared.naming import UNNAMED, Names
from kanserve.nouns import TensorInfo, Word


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What inference needs to know, and how it is done. `max_batch_size` 0: no batch dimension is promised."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch_size: int
    serving: str = ""  # how the server runs it, in words
    names: Names = UNNAMED


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model version of the server's repository, whether or not it serves."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs of an inference by name, and the version that computed them. `parameters`: what was said of them."""

    version: str
    outputs: dict[str, Any]
    parameters: dict[str, Word] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LayerValues:
    """Edge values. `values` is float32 [rows, *positions, sources, destinations], or with
    top-k [rows, *positions, k]."""

    layer: int
    sources: np.ndarray[Any, np.dtype[np.int64]]
    destinations: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float32]]
