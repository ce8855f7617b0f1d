"""Edge values of a model for given rows, from one small graph per layer, which is created at its first use.

Chunks of rows and positions bound the memory: a chunk of one layer has at most `chunk_bytes` of edge values, a chunk of
rows at most `chunk_bytes` of node vectors. A layer runs N times, once at every position of every row.

The work is divided into steps of one chunk, so that the steps of several queries can alternate.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import custom_ops
from kanexport.shared.manifest import LayerInfo
from kanserve.analysis import query_plan, reduce
from kanserve.analysis.query_plan import LayerPlan
from kanserve.errors import BackendError, FailedPrecondition, LoadError, ResourceExhausted
from kanserve.runtime.base import Session
from kanserve.scheduling import batching
from kanserve.types import Array, LayerEdges, TensorInfo

CHUNK_BYTES = 32 * 2**20  # of edge values that one query holds at a time
STEP_BYTES = 4 * 2**20  # of edge values in one step: about ten milliseconds, for which other queries wait

Floats = NDArray[np.floating]


class LayerGraph:
    """Edge graph of one layer, for use by one thread. Sessions are created at their first use.

    create       a session of the portable graph
    by_operator  a session of the graph by SplineEdges, or None if it cannot be used
    """

    def __init__(
        self,
        layer: LayerInfo,
        create: Callable[[], Session],
        by_operator: Callable[[], Session | None] = lambda: None,
    ) -> None:
        self.layer, self._create, self._create_by_operator = layer, create, by_operator

    @functools.cached_property
    def _by_operator(self) -> Session | None:
        """The session by SplineEdges; None without one."""
        session = self._create_by_operator()
        del self._create_by_operator  # which keeps the bytes of the graph
        return session

    @functools.cached_property
    def _portable_session(self) -> Session:
        """The session of the portable graph. Raises FailedPrecondition."""
        try:
            session = self._create()
        except LoadError as error:
            raise FailedPrecondition(
                "the edge graph of this layer cannot be loaded",
                code="edge-graph-not-loadable",
                hint="export the model again",
            ) from error
        del self._create
        return session

    @property
    def node_input(self) -> TensorInfo:
        """The input for node vectors [N, n]. Raises FailedPrecondition."""
        return (self._by_operator or self._portable_session).inputs[0]

    def run(self, nodes: Array) -> Floats:
        """Node vectors [N, n] -> edge values [N, S, D]. Raises FailedPrecondition, BackendError."""
        session, layer = self._by_operator, self.layer
        if session is None:
            return self._portable(nodes, ())[0]
        values = self._selected(session, nodes, 0, layer.sources * layer.destinations)
        return values.reshape(len(nodes), layer.sources, layer.destinations)

    def has_strongest(self, k: int) -> bool:
        """Whether `strongest` is available for k edges."""
        return 0 < k <= custom_ops.MOST_STRONGEST and self._by_operator is not None

    def strongest(self, nodes: Array, k: int) -> tuple[Floats, NDArray[np.intp]]:
        """Values [N, k] of the edges of largest magnitude of each of the node vectors [N, n], and their positions
        [N, k] in [S, D], flat, in the order of `query_plan.strongest`. Raises BackendError."""
        session = self._by_operator
        assert session is not None  # `has_strongest`
        values, sources, destinations = np.split(self._selected(session, nodes, k, 3 * k), 3, axis=1)
        positions = sources.astype(np.intp) * self.layer.destinations + destinations.astype(np.intp)
        return values, positions

    def _selected(self, session: Session, nodes: Array, k: int, numbers: int) -> Floats:
        feeds = {self.layer.node_tensor: nodes, custom_ops.STRONGEST: np.full((1, 1), k, np.float32)}
        return _checked(session.run([self.layer.edges_tensor], feeds), (len(nodes), numbers))[0]

    def parts(self, nodes: Array, names: Sequence[str]) -> list[Floats]:
        """Edge values, and other outputs of the edge graph of the same shape. Raises the errors of `run`."""
        return self._portable(nodes, names) if names else [self.run(nodes)]

    def _portable(self, nodes: Array, names: Sequence[str]) -> list[Floats]:
        outputs = self._portable_session.run([self.layer.edges_tensor, *names], {self.layer.node_tensor: nodes})
        return _checked(outputs, (nodes.shape[0], self.layer.sources, self.layer.destinations))


def _checked(outputs: list[Array], expected: tuple[int, ...]) -> list[Floats]:
    """The outputs of an edge graph. Raises BackendError for another shape or type."""
    for values in outputs:
        if values.shape != expected or values.dtype.kind != "f":
            raise BackendError(
                f"edge graph gave {values.dtype}{values.shape}, expected {expected}", code="execution-failed"
            )
    return cast("list[Floats]", outputs)


class NodeVectors:
    """Node vectors of some layers, one chunk of rows at a time. They are computed once if all of them are small, and
    otherwise again for each iteration."""

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

    @property
    def computed(self) -> bool:
        """Whether the serving graph computes some of the vectors."""
        return bool(self._wanted)

    def __iter__(self) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """Iterate over chunks: first row, number of rows, and the node tensors by name [rows, *positions, n]."""
        for start in range(0, self.count, self._step):
            nodes = self._kept.get(start) if self._kept is not None else None
            if nodes is None:
                piece = self._rows
                if self._step < self.count:
                    piece = batching.select_rows(self._rows, start, start + self._step)
                nodes = dict(piece)
                if self._wanted:
                    computed = self._session.run(self._wanted, piece)
                    nodes |= dict(zip(self._wanted, computed, strict=True))
                if self._kept is not None:
                    self._kept[start] = nodes
            yield start, min(self._step, self.count - start), nodes


class EdgeConsumer(ABC):
    """Consumer of the edge values of one layer, one chunk at a time."""

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph

    def flat(self, nodes: Array, rows: int) -> Array:
        """Node vectors [N, n] of nodes [rows, *positions, n]. Raises BackendError for another shape."""
        positions, tensor = self.graph.layer.positions, self.graph.layer.node_tensor
        if nodes.ndim < 2 or nodes.shape[:-1] != (rows, *positions):
            raise BackendError(
                f"{tensor} has shape {nodes.shape}, expected {(rows, *positions, 'n')}", code="execution-failed"
            )
        return np.ascontiguousarray(nodes).reshape(-1, nodes.shape[-1])

    def add_nodes(self, row: int, vectors: Array) -> None:
        """Receive the node vectors [N, n] of some rows, from `row` on, before their edge values."""
        return

    def run(self, row: int, offset: int, vectors: Array) -> None:
        """Compute the edges of node vectors [n, ...], those of `row` from its position `offset` on."""
        self.add(row, offset, self.graph.run(vectors))

    @abstractmethod
    def add(self, row: int, offset: int, values: Floats) -> None:
        """Edge values [n, S, D], those of `row` from its position `offset` on."""


def stream_edges(nodes: NodeVectors, consumers: Sequence[EdgeConsumer], chunk_bytes: int) -> Iterator[None]:
    """Pass each layer's edge values to its consumer, one chunk per step. The step of the last chunk ends with the
    result, because each step of a query waits for its turn."""
    for row, count, tensors in nodes:
        computed = nodes.computed
        for consumer in consumers:
            layer = consumer.graph.layer
            vectors = consumer.flat(tensors[layer.node_tensor], count)
            consumer.add_nodes(row, vectors)
            edge_bytes = layer.sources * layer.destinations * vectors.dtype.itemsize
            size = max(1, chunk_bytes // max(edge_bytes, 1))
            for offset in range(0, len(vectors), size):
                if computed:
                    yield
                computed = True
                consumer.run(row, offset, vectors[offset : offset + size])
        if row + count < nodes.count:
            yield


def missing(name: str) -> FailedPrecondition:
    """The error for a model that was not exported by kanexport."""
    return FailedPrecondition(
        f"model '{name}' has no edge graphs, because kanexport did not export it",
        code="model-without-edge-graphs",
        hint="export its checkpoint with `kanserve export`",
    )


Values = NDArray[np.float32]


def compute(
    session: Session,
    graphs: tuple[LayerGraph, ...],
    plans: tuple[LayerPlan, ...],
    rows: Mapping[str, Array],
    *,
    chunk_bytes: int = CHUNK_BYTES,
    piece_rows: int = 0,
    most_bytes: int = 2**62,
) -> Iterator[tuple[LayerEdges, ...] | None]:
    """The planned edge values for `rows` [B, ...] by input. Yields None after each step, and the result at the end.

    The serving graph computes the node vectors, only those that are needed, for at most `piece_rows` rows at a time (0:
    no such limit). Raises ResourceExhausted for edges of a magnitude, if they are more than `most_bytes`.
    """
    nodes = NodeVectors(session, [graphs[plan.layer].layer for plan in plans], rows, piece_rows, chunk_bytes)
    share = chunk_bytes // max(1, len(plans))
    layers = [_consumer(graphs[plan.layer], plan, nodes.count, share) for plan in plans]
    yield from stream_edges(nodes, layers, min(chunk_bytes, STEP_BYTES))
    second_pass = [layer for layer in layers if not layer.settle(most_bytes)]
    if second_pass:
        yield None
        yield from stream_edges(nodes, second_pass, min(chunk_bytes, STEP_BYTES))
    yield tuple(layer.result() for layer in layers)


def _consumer(graph: LayerGraph, plan: LayerPlan, rows: int, share: int) -> LayerResult:
    layer = graph.layer
    every = plan.sources == tuple(range(layer.sources)) and plan.destinations == tuple(range(layer.destinations))
    needs_others = plan.options.residual or plan.options.reductions
    if every and plan.top_k > 0 and not needs_others and graph.has_strongest(plan.top_k):
        if plan.options.per_row:
            return _StrongestOfEachRow(graph, plan, rows)
        single = rows * math.prod(plan.positions) == 1
        return _StrongestOfOneRow(graph, plan, rows) if single else _PickedByOperator(graph, plan, rows, 0)
    if plan.options.per_row:
        return _OfEachRow(graph, plan, rows)
    return _Picked(graph, plan, rows, share) if plan.picked else _Selected(graph, plan, rows)


class LayerResult(EdgeConsumer):
    """Result of one layer while it is computed."""

    def __init__(self, graph: LayerGraph, plan: LayerPlan, rows: int) -> None:
        super().__init__(graph)
        self._plan, self._rows = plan, rows
        self._per_row = math.prod(plan.positions)
        times = rows * self._per_row
        self._nodes: Values | None = None
        self._rest = np.zeros((times, len(plan.destinations))) if plan.options.residual else None

    def add_nodes(self, row: int, vectors: Array) -> None:
        """The node vectors [N, n] of some rows, from `row` on."""
        if self._plan.options.nodes:
            if self._nodes is None:
                self._nodes = np.empty((self._rows * self._per_row, vectors.shape[1]), np.float32)
            at = row * self._per_row
            self._nodes[at : at + len(vectors)] = _float32(vectors)

    def add(self, row: int, offset: int, values: Floats) -> None:
        """Edge values [n, S, D], those of `row` from its position `offset` on."""
        at = row * self._per_row + offset
        if self._rest is not None:
            with np.errstate(all="ignore"):
                total = values.sum(axis=1, dtype=np.float64)
            self._rest[at : at + len(values)] = total[:, list(self._plan.destinations)]
        self.take(at, query_plan.pick(values, self._plan))

    @abstractmethod
    def take(self, at: int, picked: Floats) -> None:
        """Receive values [n, s, d] of the requested edges, from time `at` on."""

    def settle(self, most_bytes: int) -> bool:
        """Finish the first pass. False if the values need a second one. Raises ResourceExhausted."""
        return True

    def result(self) -> LayerEdges:
        """The result, after all values."""
        lead = (self._rows, *self._plan.positions)
        nodes = None
        if self._plan.options.nodes:
            vectors = np.empty((0, self._plan.nodes), np.float32) if self._nodes is None else self._nodes
            nodes = vectors.reshape(*lead, vectors.shape[1])
        with np.errstate(all="ignore"):
            rest = None if self._rest is None else _float32(self._rest - self.sums())
        destinations = self._plan.destinations if self._plan.options.residual else ()
        if rest is not None:
            rest = rest.reshape(*lead, len(destinations))
        return dataclasses.replace(self.edges(lead), nodes=nodes, residual=rest, residual_destinations=destinations)

    @abstractmethod
    def edges(self, lead: tuple[int, ...]) -> LayerEdges:
        """The edges, with rows and positions as `lead` says."""

    @abstractmethod
    def sums(self) -> NDArray[np.float64]:
        """Sums [N, d] of the values in the result."""


class _Selected(LayerResult):
    """Result with all edges of a selection: their values, or reductions of them."""

    def __init__(self, graph: LayerGraph, plan: LayerPlan, rows: int) -> None:
        super().__init__(graph, plan, rows)
        self._sink = _Sink(plan, rows * self._per_row, (len(plan.sources), len(plan.destinations)))

    def take(self, at: int, picked: Floats) -> None:
        self._sink.put(at, picked)

    def edges(self, lead: tuple[int, ...]) -> LayerEdges:
        return self._sink.edges(self._plan.sources, self._plan.destinations, lead)

    def sums(self) -> NDArray[np.float64]:
        return np.asarray(self._sink.values.sum(axis=1, dtype=np.float64))


class _Picked(LayerResult):
    """Result with the edges of largest magnitude over all rows and positions.

    The first pass measures which edges these are. Their values come from those kept meanwhile if these fit `share`
    bytes, or else from a second pass.
    """

    def __init__(self, graph: LayerGraph, plan: LayerPlan, rows: int, share: int) -> None:
        super().__init__(graph, plan, rows)
        self._strength: Floats = np.zeros((len(plan.sources), len(plan.destinations)), np.float32)
        self._kept: list[Floats] | None = [] if rows * self._per_row * self._strength.size * 8 <= share else None
        self._chosen: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
        self._sink = _Sink(plan, 0, ())

    def take(self, at: int, picked: Floats) -> None:
        if self._chosen is not None:
            self._sink.put(at, picked[:, self._chosen[0], self._chosen[1]])
            return
        strengths = query_plan.strengths(picked)
        self._strength = np.maximum(self._strength, strengths) if at else strengths
        if self._kept is not None:
            self._kept.append(picked)

    def settle(self, most_bytes: int) -> bool:
        """Choose the strongest edges."""
        least = self._plan.options.min_magnitude
        count = int((self._strength >= np.float64(least)).sum()) if least else self._strength.size
        count = min(count, self._plan.top_k or count)
        times = 1 if self._plan.options.reductions else self._rows * self._per_row
        if (needed := count * times * query_plan.VALUE_BYTES) > most_bytes:
            raise ResourceExhausted(
                f"{count} edges of layer {self._plan.layer} have a magnitude of {least:g} or more; their values take "
                f"{needed} bytes, the limit is {most_bytes}",
                code="response-too-large",
                hint="send a larger min_magnitude, set top_k, or send fewer rows",
            )
        rows, columns = query_plan.strongest(self._strength, count)
        self._chosen = (rows[:count], columns[:count])
        self._sink = _Sink(self._plan, self._rows * self._per_row, (count,))
        at = 0
        for picked in self._kept or ():
            self.take(at, picked)
            at += len(picked)
        return self._kept is not None

    def edges(self, lead: tuple[int, ...]) -> LayerEdges:
        assert self._chosen is not None  # `settle` has chosen them
        sources = tuple(self._plan.sources[at] for at in self._chosen[0])
        destinations = tuple(self._plan.destinations[at] for at in self._chosen[1])
        return dataclasses.replace(self._sink.edges(sources, destinations, lead), picked=True)

    def sums(self) -> NDArray[np.float64]:
        assert self._chosen is not None
        totals = np.zeros((self._rows * self._per_row, len(self._plan.destinations)))
        np.add.at(totals.T, self._chosen[1], self._sink.values.T)
        return totals


class _PickedByOperator(_Picked):
    """The same result, if the operator returns the edges of largest magnitude of each row. The strongest over all rows
    are among these: an edge that k others exceed in each row is not one of the k strongest."""

    def run(self, row: int, offset: int, vectors: Array) -> None:
        if self._chosen is not None:
            super().run(row, offset, vectors)
            return
        values, positions = self.graph.strongest(vectors, self._plan.top_k)
        np.maximum.at(self._strength.reshape(-1), positions, query_plan.strengths(values[None]))


class _OfEachRow(LayerResult):
    """Result with the edges of largest magnitude of each row and position."""

    def __init__(self, graph: LayerGraph, plan: LayerPlan, rows: int) -> None:
        super().__init__(graph, plan, rows)
        shape = (rows * self._per_row, plan.top_k)
        self._values, self._flat = np.empty(shape, np.float32), np.empty(shape, np.intp)

    def take(self, at: int, picked: Floats) -> None:
        chosen = query_plan.strongest_each(picked, self._plan.top_k)
        until = at + len(picked)
        self._flat[at:until] = chosen
        self._values[at:until] = _float32(np.take_along_axis(picked.reshape(len(picked), -1), chosen, axis=1))

    def edges(self, lead: tuple[int, ...]) -> LayerEdges:
        shape = (*lead, self._plan.top_k)
        source, destination = np.divmod(self._flat, max(1, len(self._plan.destinations)))
        each = (
            np.array(self._plan.sources, np.uint32)[source].reshape(shape),
            np.array(self._plan.destinations, np.uint32)[destination].reshape(shape),
        )
        return LayerEdges(self._plan.layer, (), (), self._values.reshape(shape), each, picked=True)

    def sums(self) -> NDArray[np.float64]:
        totals = np.zeros((len(self._values), len(self._plan.destinations)))
        np.add.at(totals, (np.arange(len(totals))[:, None], self._flat % max(1, totals.shape[1])), self._values)
        return totals


class _StrongestOfEachRow(_OfEachRow):
    """The same result, from the operator that returns the edges of largest magnitude only."""

    def run(self, row: int, offset: int, vectors: Array) -> None:
        at = row * self._per_row + offset
        until = at + len(vectors)
        self._values[at:until], self._flat[at:until] = self.graph.strongest(vectors, self._plan.top_k)


class _StrongestOfOneRow(_StrongestOfEachRow):
    """The result of `_Picked` for a single row and position."""

    def edges(self, lead: tuple[int, ...]) -> LayerEdges:
        strengths = query_plan.strengths(self._values)
        count = int((strengths >= np.float64(self._plan.options.min_magnitude)).sum())
        sources, destinations = np.divmod(self._flat[0, :count], len(self._plan.destinations))
        values = np.ascontiguousarray(self._values[:, :count]).reshape(*lead, count)
        return LayerEdges(self._plan.layer, tuple(sources.tolist()), tuple(destinations.tolist()), values, picked=True)


class _Sink:
    """Buffer of edge values [N, ...], or of their reductions over rows and positions."""

    def __init__(self, plan: LayerPlan, times: int, edges: tuple[int, ...]) -> None:
        options, self._plan = plan.options, plan
        self._reducer = None
        if options.reductions:
            self._reducer = reduce.Reducer(options.reductions, edges, options.quantiles, options.bins)
        self.values = np.empty((0 if self._reducer else times, *edges), np.float32)

    def put(self, at: int, picked: Floats) -> None:
        """[n, ...], those from time `at` on."""
        if self._reducer is not None:
            self._reducer.add(picked)
        else:
            self.values[at : at + len(picked)] = _float32(picked)

    def edges(self, sources: tuple[int, ...], destinations: tuple[int, ...], lead: tuple[int, ...]) -> LayerEdges:
        """The values, with rows and positions as `lead` says, or their reductions."""
        if self._reducer is not None:
            reductions = self._reducer.result()
            return LayerEdges(self._plan.layer, sources, destinations, self.values, reductions=reductions)
        values = self.values.reshape(*lead, *self.values.shape[1:])
        return LayerEdges(self._plan.layer, sources, destinations, values)


def _float32(values: Array) -> Values:
    """Values as float32. A value that is too large becomes infinite, as in the format."""
    with np.errstate(all="ignore"):
        return np.asarray(values, np.float32)
