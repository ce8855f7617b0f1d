"""Curves of a model's edges, from the edge graph of each layer, with the same values as an edge query.

A layer computes all its edges at a few points at a time. The requested edges are kept and sent, block by block.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.manifest import LayerInfo, Manifest
from kanserve.analysis import curves, query_plan
from kanserve.analysis.curves import Floats
from kanserve.analysis.query_plan import LayerPlan
from kanserve.errors import KanserveError, LoadError
from kanserve.insight.edge_queries import STEP_BYTES, LayerGraph
from kanserve.runtime.base import Session
from kanserve.sandbox import verify
from kanserve.types import DTYPES, Array, CurveBlock, CurveRequest

Floating = NDArray[np.floating]


def compute(
    session: Session,
    graphs: tuple[LayerGraph, ...],
    manifest: Manifest,
    plans: Sequence[LayerPlan],
    request: CurveRequest,
) -> Iterator[CurveBlock | None]:
    """The curves of the planned layers, each of class A. Yields None after each step, and a block when it is
    complete."""
    rows = None
    if request.span is None and manifest.reference.inputs:
        with contextlib.suppress(LoadError):
            rows = verify.feeds(manifest)
    for plan in plans:
        layer = manifest.layers[plan.layer]
        if request.span is not None:
            domain = curves.requested(*request.span, layer.sources)
        else:
            domain = curves.domain(layer, _seen(session, layer, rows))
        yield None
        graph = graphs[plan.layer]
        x = curves.grid(domain, request.points, DTYPES[graph.node_input.datatype])
        kinds, names = curves.named_parts(graph.layer) if request.parts else ((), ())
        total, *own = yield from _values(graph, plan, x, names)
        parts = zip(kinds, curves.all_parts(graph.layer, total, own), strict=True) if request.parts else ()
        part_values = list(parts)
        slopes = None
        if request.derivative:
            below, above = curves.neighbours(x, domain, DTYPES[graph.node_input.datatype])
            (left,) = yield from _values(graph, plan, below)
            (right,) = yield from _values(graph, plan, above)
            chosen = list(plan.sources)
            slopes = curves.slope(below[:, chosen], above[:, chosen], left, right)
        extrema = (yield from _extrema(graph, plan, x, total)) if request.extrema else None
        for first, second in curves.blocks(plan.sources, plan.destinations, request.points):
            sources = plan.sources[first]
            yield CurveBlock(
                layer=plan.layer,
                sources=sources,
                destinations=plan.destinations[second],
                x=x[:, list(sources)].T,
                phi=_of_edges(total, first, second),
                derivative=None if slopes is None else _of_edges(slopes, first, second),
                domains=tuple(domain.origins[at] for at in sources),
                parts=tuple((kind, _of_edges(values, first, second)) for kind, values in part_values),
                extrema=None if extrema is None else (extrema[0][first, second], extrema[1][first, second]),
            )


def _seen(session: Session, layer: LayerInfo, rows: Mapping[str, Array] | None) -> Floats | None:
    """Values [R, S] of the layer's sources on the reference rows, at every position."""
    if rows is None:
        return None
    nodes = rows.get(layer.node_tensor)
    if nodes is None:
        try:
            (nodes,) = session.run([layer.node_tensor], rows)
        except KanserveError:
            return None
    flat = nodes.reshape(-1, nodes.shape[-1]).astype(np.float64)
    return flat[:, list(curves.columns(layer))]


def _extrema(
    graph: LayerGraph, plan: LayerPlan, x: Floats, phi: Floating
) -> Generator[None, None, tuple[Floats, NDArray[np.float32]]]:
    """The arguments and values of the minimum and maximum of each planned edge [s, d, 2]. The search refines the
    points [N, s, d]."""
    extrema: list[tuple[Floats, Floats]] = []
    dtype = DTYPES[graph.node_input.datatype]
    for largest in (False, True):
        wide = np.broadcast_to(x[:, list(plan.sources), None], phi.shape).astype(np.float64)
        values = phi.astype(np.float64)
        for _ in range(curves.ROUNDS):
            wide = (
                curves.between(*curves.extremum_interval(wide, values, largest=largest))
                .astype(dtype)
                .astype(np.float64)
            )
            values = yield from _apart(graph, plan, wide)
        extrema.append(curves.best(wide, values, largest=largest))
    where, value = (np.stack([pair[at] for pair in extrema], axis=-1) for at in (0, 1))
    with np.errstate(over="ignore"):
        return where, value.astype(np.float32)


def _apart(graph: LayerGraph, plan: LayerPlan, x: Floats) -> Generator[None, None, Floats]:
    """phi of the planned edges [N, s, d], each at separate points, one destination after the other."""
    result = np.empty(x.shape)
    chosen = list(plan.sources)
    for at, destination in enumerate(plan.destinations):
        nodes = np.zeros((len(x), graph.layer.sources))
        nodes[:, chosen] = x[:, :, at]
        single = dataclasses.replace(plan, destinations=(destination,))
        (values,) = yield from _values(graph, single, nodes)
        result[:, :, at] = values[:, :, 0]
    return result


def _of_edges(values: Floating, first: slice, second: slice) -> NDArray[np.float32]:
    """Values [s, d, N] of some edges from [N, s, d]. A value that is too large for float32 becomes infinite, as in the
    format."""
    with np.errstate(over="ignore"):
        return values[:, first, second].transpose(1, 2, 0).astype(np.float32)


def _values(
    graph: LayerGraph, plan: LayerPlan, x: Floats, names: Sequence[str] = ()
) -> Generator[None, None, list[Floating]]:
    """phi of the planned edges [N, s, d] at `x` [N, S], and the edge graph's outputs of these names. Nodes that are not
    sources of the layer are zero."""
    outputs: list[list[Floating]] = [[] for _ in range(1 + len(names))]
    for nodes in _nodes(graph, x):
        for output, values in zip(outputs, graph.parts(nodes, names), strict=True):
            output.append(query_plan.pick(values, plan))
        yield None
    return [np.concatenate(output) for output in outputs]


def pieces(graph: LayerGraph, x: Floats) -> Iterator[tuple[slice, Floating]]:
    """phi of all edges of the layer at `x` [N, S], in chunks: the points of each chunk, and phi [n, S, D]."""
    start = 0
    for nodes in _nodes(graph, x):
        yield slice(start, start + len(nodes)), graph.run(nodes)
        start += len(nodes)


def _nodes(graph: LayerGraph, x: Floats) -> Iterator[Array]:
    """Input nodes [n, width] of the layer for the values `x` [N, S] of its sources, in chunks of one step."""
    layer, tensor = graph.layer, graph.node_input
    dtype = DTYPES[tensor.datatype]
    columns = list(curves.columns(layer))
    width = tensor.shape[-1] if tensor.shape[-1] > 0 else max(columns) + 1
    step = max(1, STEP_BYTES // (layer.sources * layer.destinations * dtype.itemsize))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        nodes = np.zeros((len(part), width), dtype)
        nodes[:, columns] = part
        yield nodes
