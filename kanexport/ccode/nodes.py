"""Values of a graph with one row, before they are C: constants, inputs, views, functions of elements, sums, products.

Nothing is computed here. A view has no memory in C: it is an index into the value that it shows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FLOAT, INT, BOOL = "float", "int", "bool"

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Position on an axis: `at` plus, for each C expression in `parts`, that expression times a number."""

    at: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str) -> Index:
        """The position that a C variable holds."""
        return cls(0, {name: 1})

    def __add__(self, other: Index) -> Index:
        parts = dict(self.parts)
        for name, times in other.parts.items():
            parts[name] = parts.get(name, 0) + times
        return Index(self.at + other.at, {name: times for name, times in parts.items() if times})

    def times(self, number: int) -> Index:
        """The position times a number."""
        return Index(self.at * number, {name: by * number for name, by in self.parts.items() if number})

    def __str__(self) -> str:
        terms = [name if by == 1 else f"{by} * {name}" for name, by in self.parts.items()]
        if self.at or not terms:
            terms.append(str(self.at))
        return " + ".join(terms)


ORIGIN = Index()
Indices = tuple[Index, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """Value of one row: an array of `shape`, of `kind` FLOAT, INT or BOOL."""

    shape: Shape
    kind: str

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def operands(self) -> tuple[Node, ...]:
        """The values from which this one is computed: those among its fields."""
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        values = (value for part in parts for value in (part if isinstance(part, tuple) else (part,)))
        return tuple(value for value in values if isinstance(value, Node))


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Node):
    """Constant. `array` may be a numpy view: constants that show the same memory share one table."""

    array: Array

    @classmethod
    def of(cls, array: Array) -> Constant:
        """A constant with the kind of its numpy type."""
        kind = {"f": FLOAT, "b": BOOL}.get(array.dtype.kind, INT)
        return cls(tuple(array.shape), kind, array)


@dataclass(frozen=True, slots=True, eq=False)
class Given(Node):
    """Argument of the C function."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Mapped(Node):
    """Function of elements, by numpy's broadcasting. `template` is C with {0}, {1}, ... for the operands; `cost` is
    about the number of additions that it takes."""

    template: str
    cost: int
    values: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class View(Node):
    """Another order or selection of the elements of `value`. `place` maps an index here to an index there."""

    value: Node
    place: Callable[[Indices], Indices]


@dataclass(frozen=True, slots=True, eq=False)
class Flat(Node):
    """The same elements in the same order, in another shape."""

    value: Node


@dataclass(frozen=True, slots=True, eq=False)
class Selected(Node):
    """Elements of one axis of `value`, by a table of `indices` without a regular step."""

    value: Node
    axis: int
    indices: Constant


@dataclass(frozen=True, slots=True, eq=False)
class Reduced(Node):
    """Sum, largest or smallest element over some axes, which stay with one entry. `operation`: "sum", "max", "min"."""

    value: Node
    axes: tuple[int, ...]
    operation: str


@dataclass(frozen=True, slots=True, eq=False)
class Product(Node):
    """Matrix product [..., M, K] x [..., K, N], plus `start` if there is one."""

    left: Node
    right: Node
    start: Node | None


@dataclass(frozen=True, slots=True, eq=False)
class Joined(Node):
    """Values one after the other on one axis."""

    axis: int
    values: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Splines(Node):
    """Splines of a layer: the operator `SplineLayer`, [1, I] to [1, O], or each edge by itself, [1, I, O].

    start    the initial sums, if not the edges
    knots    [1 or I, T], float32
    coef     [K, I, O], times the functions
    weights  [I, O], of the base branch silu(x), or None
    degree   of the splines
    scale    of each function
    spreads  whether a source that is not finite makes the row NaN
    """

    value: Node
    start: Node | None
    knots: Array
    coef: Array
    weights: Array | None
    degree: int
    scale: float
    spreads: bool


def broadcast(*shapes: Shape) -> Shape:
    """The shape of a function of arrays with these shapes."""
    return tuple(np.broadcast_shapes(*shapes))


def transposed(value: Node, axes: tuple[int, ...]) -> Node:
    """The axes in another order."""
    if isinstance(value, Constant):
        return Constant.of(value.array.transpose(axes))
    return _renamed(value, tuple(value.shape[axis] for axis in axes), dict(zip(axes, range(len(axes)), strict=True)))


def _renamed(value: Node, shape: Shape, places: Mapping[int, int]) -> View:
    """The same elements. `places`: of an axis there, the axis here; other axes have one entry."""

    def place(index: Indices) -> Indices:
        return tuple(index[places[axis]] if axis in places else ORIGIN for axis in range(len(value.shape)))

    return View(shape, value.kind, value, place)


def reshaped(value: Node, shape: Shape) -> Node:
    """The same elements in another shape."""
    if shape == value.shape:
        return value
    if isinstance(value, Constant):
        return Constant.of(value.array.reshape(shape))
    long = [axis for axis, size in enumerate(value.shape) if size > 1]
    if [value.shape[axis] for axis in long] != [size for size in shape if size > 1]:
        return Flat(shape, value.kind, value)
    # The same axes in the same order, among axes of one entry.
    return _renamed(value, shape, dict(zip(long, [axis for axis, size in enumerate(shape) if size > 1], strict=True)))


def selected(value: Node, axis: int, indices: Array) -> Node:
    """Elements of one axis, which becomes the axes of `indices`; numpy.take."""
    indices = np.where(indices < 0, indices + value.shape[axis], indices)
    if isinstance(value, Constant):
        return Constant.of(_taken(value.array, axis, indices))
    shape = value.shape[:axis] + indices.shape + value.shape[axis + 1 :]
    steps = regular(indices)
    if steps is None:
        return Selected(shape, value.kind, value, axis, Constant.of(np.ascontiguousarray(indices)))
    first, rank = int(indices.reshape(-1)[0]), indices.ndim

    def place(index: Indices) -> Indices:
        at = Index(first)
        for step, own in zip(steps, index[axis : axis + rank], strict=True):
            at += own.times(step)
        return (*index[:axis], at, *index[axis + rank :])

    return View(shape, value.kind, value, place)


def regular(indices: Array) -> tuple[int, ...] | None:
    """The step of each axis of indices that are a first one plus steps; None if they are not."""
    if not indices.size:
        return None
    origin = indices[(0,) * indices.ndim]
    units = np.eye(indices.ndim, dtype=int)
    steps = [
        int(indices[tuple(unit)] - origin) if size > 1 else 0 for unit, size in zip(units, indices.shape, strict=True)
    ]
    places = np.indices(indices.shape)
    expected = origin + np.tensordot(np.array(steps, dtype=np.int64), places, axes=1)
    return tuple(steps) if np.array_equal(expected, indices) else None


def _taken(array: Array, axis: int, indices: Array) -> Array:
    """numpy.take as a view, if the indices have regular steps."""
    steps = regular(indices)
    if steps is None or any(step < 0 for step in steps):
        return np.take(array, indices, axis=axis)
    first, stride = int(indices.reshape(-1)[0]), array.strides[axis]
    shape = array.shape[:axis] + indices.shape + array.shape[axis + 1 :]
    strides = (*array.strides[:axis], *(step * stride for step in steps), *array.strides[axis + 1 :])
    start = array[tuple(slice(first, None) if at == axis else slice(None) for at in range(array.ndim))]
    return np.lib.stride_tricks.as_strided(start, shape, strides, writeable=False)
