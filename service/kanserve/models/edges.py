"""What the edges of a model did with given rows: one small graph per layer, made when asked for.

Memory is bounded by working through the rows in chunks; a chunk of one layer
holds at most CHUNK_BYTES of edge values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import LayerInfo
from kanserve.backends import Session
from kanserve.errors import BackendError, LoadError, NotPossible
from kanserve.interpret import select
from kanserve.interpret.select import LayerPlan
from kanserve.tensors import Array, LayerEdges

CHUNK_BYTES = 32 * 2**20


class Cancelled(Exception):
    """Raised inside the worker; never leaves it."""


class LayerGraph:
    """The edge graph of one layer. Used by one thread; the session appears at first use."""

    def __init__(self, layer: LayerInfo, create: Callable[[], Session], *, whole_batch: bool) -> None:
        """`whole_batch`: the values depend on all rows together, so they cannot be chunked."""
        self.layer = layer
        self.whole_batch = whole_batch
        self._create: Callable[[], Session] | None = create  # holds the bytes until then
        self._session: Session | None = None

    def run(self, nodes: Array) -> NDArray[np.floating]:
        """Node vector [B, n] -> edge values [B, S, D]."""
        if self._session is None:
            assert self._create is not None
            try:
                self._session = self._create()
            except LoadError as error:
                raise NotPossible("the edge graph of this layer cannot be loaded; export again") from error
            self._create = None
        (values,) = self._session.run([self.layer.edges_tensor], {self.layer.node_tensor: nodes})
        expected = (nodes.shape[0], self.layer.sources, self.layer.destinations)
        if values.shape != expected or values.dtype.kind != "f":
            raise BackendError(f"edge graph gave {values.dtype}{values.shape}, expected {expected}")
        return cast("NDArray[np.floating]", values)


def compute(
    session: Session,
    input_name: str,
    graphs: tuple[LayerGraph, ...],
    plans: tuple[LayerPlan, ...],
    rows: Array,
    cancelled: threading.Event,
) -> tuple[LayerEdges, ...]:
    """Edge values of the planned layers for `rows` [B, n]; runs in a worker thread.

    The serving graph computes the node vectors, only those that are needed. The
    graph's input is the node vector of layer 0. Raises Cancelled between chunks.
    """
    names = [graphs[plan.layer].layer.node_tensor for plan in plans]
    wanted = sorted({name for name in names if name != input_name})
    found = dict(zip(wanted, session.run(wanted, {input_name: rows}), strict=True)) if wanted else {}
    nodes = {input_name: rows, **found}
    return tuple(
        _layer(graphs[plan.layer], plan, nodes[name], cancelled) for plan, name in zip(plans, names, strict=True)
    )


def _layer(graph: LayerGraph, plan: LayerPlan, nodes: Array, cancelled: threading.Event) -> LayerEdges:
    count = nodes.shape[0]
    if count == 0:
        return _empty(plan)
    if plan.top_k:
        return _strongest(graph, plan, nodes, cancelled)
    values = np.empty((count, len(plan.sources), len(plan.destinations)), np.float32)
    for start, part in _chunks(graph, nodes, cancelled):
        values[start : start + len(part)] = _single(select.pick(part, plan))
    return LayerEdges(plan.layer, plan.sources, plan.destinations, values)


def _strongest(graph: LayerGraph, plan: LayerPlan, nodes: Array, cancelled: threading.Event) -> LayerEdges:
    """Two passes, so that the unselected values are never all in memory; one if they fit a chunk."""
    strength = np.zeros((len(plan.sources), len(plan.destinations)))
    kept: NDArray[np.floating] | None = None
    for _, part in _chunks(graph, nodes, cancelled):
        picked = select.pick(part, plan)
        strength = np.maximum(strength, select.strengths(picked))
        kept = picked if len(picked) == nodes.shape[0] else None
    rows, columns = select.strongest(strength, plan.top_k)
    values = np.empty((nodes.shape[0], plan.top_k), np.float32)
    if kept is not None:
        values[:] = _single(kept[:, rows, columns])
    else:
        for start, part in _chunks(graph, nodes, cancelled):
            values[start : start + len(part)] = _single(select.pick(part, plan)[:, rows, columns])
    return LayerEdges(
        plan.layer,
        tuple(plan.sources[at] for at in rows),
        tuple(plan.destinations[at] for at in columns),
        values,
    )


def _chunks(graph: LayerGraph, nodes: Array, cancelled: threading.Event) -> Iterator[tuple[int, NDArray[np.floating]]]:
    per_row = graph.layer.sources * graph.layer.destinations * nodes.dtype.itemsize
    step = nodes.shape[0] if graph.whole_batch else max(1, CHUNK_BYTES // max(per_row, 1))
    for start in range(0, nodes.shape[0], step):
        if cancelled.is_set():
            raise Cancelled
        yield start, graph.run(np.ascontiguousarray(nodes[start : start + step]))


def _single(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """To float32; what is too large for it becomes infinite, as the format says."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _empty(plan: LayerPlan) -> LayerEdges:
    """No rows: no magnitudes either, so top-k falls back to the order of the edges."""
    if not plan.top_k:
        return LayerEdges(
            plan.layer,
            plan.sources,
            plan.destinations,
            np.empty((0, len(plan.sources), len(plan.destinations)), np.float32),
        )
    rows, columns = np.unravel_index(np.arange(plan.top_k), (len(plan.sources), len(plan.destinations)))
    return LayerEdges(
        plan.layer,
        tuple(plan.sources[at] for at in rows),
        tuple(plan.destinations[at] for at in columns),
        np.empty((0, plan.top_k), np.float32),
    )


def missing(name: str) -> NotPossible:
    """The error for a model that was not exported by kanexport."""
    return NotPossible(
        f"model '{name}' has no edge graphs: it was not exported by kanexport; "
        "export its checkpoint with `kanserve export`"
    )
