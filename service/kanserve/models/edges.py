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
from kanserve.interpret import select
from kanserve.interpret.select import LayerPlan
from kanserve.nouns import Array, LayerEdges, TensorInfo
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


def compute(
    session: Session,
    graphs: tuple[LayerGraph, ...],
    plans: tuple[LayerPlan, ...],
    rows: Mapping[str, Array],
    *,
    chunk_bytes: int,
    piece_rows: int = 0,
) -> Iterator[tuple[LayerEdges, ...] | None]:
    """Edge values of the planned layers for `rows` [B, ...] by input: None after each step, and at last the answer.

    The serving graph computes the node vectors, only those that are needed, for at
    most `piece_rows` rows at a time (0: no such limit).
    """
    nodes = Nodes(session, [graphs[plan.layer].layer for plan in plans], rows, piece_rows, chunk_bytes)
    share = chunk_bytes // max(1, len(plans))
    answers = [_Answer(graphs[plan.layer], plan, nodes.count, share) for plan in plans]
    yield from work(nodes, answers, min(chunk_bytes, STEP_BYTES))
    again = [answer for answer in answers if not answer.settle()]
    if again:
        yield from work(nodes, again, min(chunk_bytes, STEP_BYTES))
    yield tuple(answer.result() for answer in answers)


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

    @abstractmethod
    def add(self, row: int, offset: int, values: Floats) -> None:
        """Edge values [n, S, D], those of `row` from its position `offset` on."""


class _Answer(Taker):
    """One layer's edge values in the making.

    With top-k it first measures which edges are the strongest; the values come from
    what was kept meanwhile if that fits `share` bytes, or else from a second pass.
    """

    def __init__(self, graph: LayerGraph, plan: LayerPlan, rows: int, share: int) -> None:
        super().__init__(graph, plan.positions)
        self._plan = plan
        self._shape = plan.shape(rows)
        self._per_row = math.prod(plan.positions)
        self._strength = np.zeros((len(plan.sources), len(plan.destinations)))
        self._chosen: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
        size = rows * self._per_row * self._strength.size * 8
        self._kept: list[Floats] | None = [] if plan.top_k and size <= share else None
        self._values = np.empty((rows * self._per_row, *self._shape[1 + len(plan.positions) :]), np.float32)

    def add(self, row: int, offset: int, values: Floats) -> None:
        """Edge values [n, S, D], those of `row` from its position `offset` on."""
        picked = select.pick(values, self._plan)
        if self._plan.top_k and self._chosen is None:
            self._strength = np.maximum(self._strength, select.strengths(picked))
            if self._kept is not None:
                self._kept.append(picked)
            return
        self._fill(row * self._per_row + offset, picked)

    def settle(self) -> bool:
        """After the first pass: choose the strongest edges. False if their values are to come."""
        if not self._plan.top_k:
            return True
        self._chosen = select.strongest(self._strength, self._plan.top_k)
        at = 0
        for picked in self._kept or ():
            self._fill(at, picked)
            at += len(picked)
        return self._kept is not None

    def result(self) -> LayerEdges:
        """The answer, when every value is there."""
        sources, destinations = self._plan.sources, self._plan.destinations
        if self._chosen is not None:
            rows, columns = self._chosen
            sources = tuple(sources[at] for at in rows)
            destinations = tuple(destinations[at] for at in columns)
        return LayerEdges(self._plan.layer, sources, destinations, self._values.reshape(self._shape))

    def _fill(self, at: int, picked: Floats) -> None:
        if self._chosen is not None:
            rows, columns = self._chosen
            picked = picked[:, rows, columns]
        # What is too large for float32 becomes infinite, as the format says.
        with np.errstate(over="ignore"):
            self._values[at : at + len(picked)] = picked.astype(np.float32)


def work(nodes: Nodes, answers: Sequence[Taker], chunk_bytes: int) -> Iterator[None]:
    """Give each layer's edge values to who takes them: a step each."""
    for row, count, tensors in nodes:
        yield
        for answer in answers:
            vectors = answer.flat(tensors[answer.graph.layer.node_tensor], count)
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
