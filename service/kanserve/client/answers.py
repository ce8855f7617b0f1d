"""What a server answers, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kanexport.shared.naming import UNNAMED, Names
from kanserve.client import frames
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
    """Outputs of an inference by name, and the version that computed them. `parameters`: what was said of them;
    `names`: what people call the numbers, of a ServedModel; `index`: what a DataFrame called its rows."""

    version: str
    outputs: dict[str, Any]
    parameters: dict[str, Word] = field(default_factory=dict)
    names: Names = UNNAMED
    index: Any = None

    def to_frame(self, output: str = "") -> Any:
        """An output [rows, n] as a pandas DataFrame, its columns called as the classes, else y0, y1 ...; its rows as
        those that were asked. `output`: its name, where there are several. Raises ValueError, ImportError without
        pandas."""
        own = [name for name in self.outputs if not name.startswith("kan.")]  # those are explanations and the like
        name = output or (own[0] if len(own) == 1 else "")
        if name not in self.outputs:
            raise ValueError(f"output {name!r} is not among {', '.join(map(repr, own))}: which is meant?")
        values = self.outputs[name]
        if values.ndim != 2:
            raise ValueError(f"output {name} has {values.ndim} axes, and a DataFrame has two, rows and columns")
        return frames.table(values, self.columns()[name], index=self.index)

    def columns(self) -> dict[str, tuple[str, ...]]:
        """The column names of one row of each output, in C order: see `Names.columns`."""
        sizes = {name: math.prod(values.shape[1:]) for name, values in self.outputs.items()}
        own = {name: size for name, size in sizes.items() if not name.startswith("kan.")}
        return UNNAMED.columns(sizes) | self.names.columns(own)


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
