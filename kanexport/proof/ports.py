"""What a model takes and gives, tensor by tensor, and the same as one array of rows.

A proof works with one array: of a model with one input its rows as they are, [B, ...], of
several what they hold, flat in C order and one after the other, [B, N]. So with outputs.
Whole numbers and truth values are float64 there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FLOAT = "float"  # of the graph's own type


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output. `shape`: of a row; `kind`: `FLOAT`, or the name of a numpy type
    that holds whole numbers or truth values."""

    name: str
    shape: tuple[int, ...]
    kind: str = FLOAT

    @property
    def size(self) -> int:
        """How many numbers a row holds."""
        return math.prod(self.shape)

    def cast(self, rows: Array, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Rows in the type in which a graph takes them. Whole numbers are the nearest ones; what is not
        finite is none, and becomes 0."""
        if self.kind == FLOAT:
            return rows.astype(dtype)
        return np.rint(np.where(np.isfinite(rows), rows, 0)).astype(self.kind)


@dataclass(frozen=True, slots=True)
class Ports:
    """All of a model, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def feeds(self, x: Array, dtype: npt.DTypeLike) -> dict[str, npt.NDArray[np.generic]]:
        """The graph's inputs by name, from rows as one array."""
        return {
            port.name: port.cast(rows, dtype) for port, rows in zip(self.inputs, split(self.inputs, x), strict=True)
        }

    def given(self, x: Array) -> dict[str, Array]:
        """The inputs by name, in float64."""
        return dict(zip((port.name for port in self.inputs), split(self.inputs, x), strict=True))

    def wanted(self, y: Array) -> dict[str, Array]:
        """The outputs by name, in float64."""
        return dict(zip((port.name for port in self.outputs), split(self.outputs, y), strict=True))


def split(ports: Sequence[Port], rows: Array) -> list[Array]:
    """One array of rows as one array for each port, [B, *shape]."""
    if len(ports) == 1:
        return [rows]
    ends = np.cumsum([port.size for port in ports])[:-1]
    parts = np.split(rows, ends, axis=1)
    return [part.reshape(len(rows), *port.shape) for port, part in zip(ports, parts, strict=True)]


def join(parts: Sequence[Array]) -> Array:
    """The way back: [B, ...] as it is, several as [B, N]."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)
