"""What a server answers, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Edge values. `values` is float32 [rows, *positions, sources, destinations], or of the
    strongest edges [rows, *positions, k], whose sources and destinations are [k], or, where every row has its own,
    [rows, *positions, k].

    `rest` [rows, *positions, destinations]: what the layer's other edges add to each of `rest_of`; `nodes`
    [rows, *positions, n]: what the layer is given; `reductions`: figures over rows and positions by name, in the place
    of values. None, or none, unless asked for.
    """

    layer: int
    sources: np.ndarray[Any, np.dtype[np.int64]]
    destinations: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float32]]
    rest: np.ndarray[Any, np.dtype[np.float32]] | None = None
    rest_of: tuple[int, ...] = ()
    nodes: np.ndarray[Any, np.dtype[np.float32]] | None = None
    reductions: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]] = field(default_factory=dict)
