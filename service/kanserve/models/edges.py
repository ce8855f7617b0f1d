"""What the edges of a model did with given rows: one small graph per layer, made when asked for.

Memory is bounded by working through rows and positions in chunks: a chunk of one
layer holds at most `chunk_bytes` of edge values, a piece of rows at most `chunk_bytes`
of node vectors. A layer runs N times, once at every position of every row.

The work goes step by step, a chunk or a piece each, so that queries can take turns.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import LayerInfo
from kanserve.backends import Session
from kanserve.errors import BackendError, LoadError, NotPossible
from kanserve.nouns import Array, TensorInfo
from kanserve.scheduling import merge

STEP_BYTES = 4 * 2**20  # of edge values in one step: some ten milliseconds, for which others wait

Floats = NDArray[np.floating]


class LayerGraph:
    """The edge graph of one layer. Used by one thread; the session appears at first use."""

    def __init__(self, layer: LayerInfo, create: Callable[[], Session]) -> None:
        self.layer = layer
        self._create: Callable[[], Session] | None = create  # holds the bytes until then
        self._session: Session | None = None

    def _open(self) -> Session:
        """Raises NotPossible."""
        if self._session is None:
            assert self._create is not None
            try:
                self._session = self._create()
            except LoadError as error:
                raise NotPossible("the edge graph of this layer cannot be loaded; export again") from error
            self._create = None
        return self._session

    @property
    def given(self) -> TensorInfo:
        """The node vectors [N, n] that it takes. Raises NotPossible."""
        return self._open().inputs[0]

    def run(self, nodes: Array) -> Floats:
        """Node vectors [N, n] -> edge values [N, S, D]. Raises NotPossible, BackendError."""
        return self.parts(nodes, ())[0]

    def parts(self, nodes: Array, names: Sequence[str]) -> list[Floats]:
        """The same, and other outputs of the edge graph, which are as large. Raises as `run`."""
        found = self._open().run([self.layer.edges_tensor, *names], {self.layer.node_tensor: nodes})
        expected = (nodes.shape[0], self.layer.sources, self.layer.destinations)
        for values in found:
            if values.shape != expected or values.dtype.kind != "f":
                raise BackendError(f"edge graph gave {values.dtype}{values.shape}, expected {expected}")
        return cast("list[Floats]", found)


class Nodes:
    """The node vectors of some layers, a piece of rows at a time. Computed once if all
    of them are small, otherwise again whenever they are gone through."""

    def __init__(
        self,
        session: Session,
        layers: Sequence[LayerInfo],
        rows: Mapping[str, Array],
        piece_rows: int,
        chunk_bytes: int,
    ) -> None:
        self._session = session
        self._rows = rows
        self.count = len(next(iter(rows.values())))
        self._wanted = sorted({layer.node_tensor for layer in layers} - set(rows))
        item = max(array.dtype.itemsize for array in rows.values())
        size = sum(math.prod(layer.positions) * layer.sources for layer in layers) * item
        self._step = max(1, min(piece_rows or self.count, chunk_bytes // max(size, 1)))
        self._kept: dict[int, dict[str, Array]] | None = {} if size * self.count <= chunk_bytes else None

    def __iter__(self) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """First row, number of rows, and the node tensors by name [rows, *positions, n]."""
        for start in range(0, self.count, self._step):
            piece = merge.part(self._rows, start, start + self._step)
            nodes = self._kept.get(start) if self._kept is not None else None
            if nodes is None:
                nodes = dict(piece)
                if self._wanted:
                    computed = self._session.run(self._wanted, piece)
                    nodes |= dict(zip(self._wanted, computed, strict=True))
                if self._kept is not None:
                    self._kept[start] = nodes
            yield start, min(self._step, self.count - start), nodes


class Taker(ABC):
    """What is done with the edge values of one layer, a chunk at a time."""

    def __init__(self, graph: LayerGraph, positions: tuple[int, ...]) -> None:
        self.graph = graph
        self._positions = positions

    def flat(self, nodes: Array, rows: int) -> Array:
        """[rows, *positions, n] -> [N, n]. Raises BackendError for another shape."""
        positions, tensor = self._positions, self.graph.layer.node_tensor
        if nodes.ndim < 2 or nodes.shape[:-1] != (rows, *positions):
            raise BackendError(f"{tensor} has shape {nodes.shape}, expected {(rows, *positions, 'n')}")
        return np.ascontiguousarray(nodes).reshape(-1, nodes.shape[-1])

    def chunk(self, nodes: Array, chunk_bytes: int) -> int:
        """How many node vectors make a chunk of edge values."""
        size = self.graph.layer.sources * self.graph.layer.destinations * nodes.dtype.itemsize
        return max(1, chunk_bytes // max(size, 1))

    def given(self, row: int, vectors: Array) -> None:
        """The node vectors [N, n] of some rows, from `row` on; before their edge values."""
        return

    @abstractmethod
    def add(self, row: int, offset: int, values: Floats) -> None:
        """Edge values [n, S, D], those of `row` from its position `offset` on."""


def work(nodes: Nodes, answers: Sequence[Taker], chunk_bytes: int) -> Iterator[None]:
    """Give each layer's edge values to who takes them: a step each."""
    for row, count, tensors in nodes:
        yield
        for answer in answers:
            vectors = answer.flat(tensors[answer.graph.layer.node_tensor], count)
            answer.given(row, vectors)
            size = answer.chunk(vectors, chunk_bytes)
            for offset in range(0, len(vectors), size):
                answer.add(row, offset, answer.graph.run(vectors[offset : offset + size]))
                yield


def missing(name: str) -> NotPossible:
    """The error for a model that was not exported by kanexport."""
    return NotPossible(
        f"model '{name}' has no edge graphs: it was not exported by kanexport; "
        "export its checkpoint with `kanserve export`"
    )
