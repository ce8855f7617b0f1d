"""Scores of a model's edges over a batch, from the spread of the values of its edge graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kanexport.shared.manifest import LayerInfo, Manifest
from kanexport.shared.sections import NodeBaseline
from kanserve.analysis import curves as grids
from kanserve.analysis import scores
from kanserve.analysis.histogram import Cells, Window
from kanserve.analysis.scores import Moments, Scores, Spread, Weighted
from kanserve.errors import FailedPrecondition
from kanserve.insight import curves, edge_queries
from kanserve.insight.edge_queries import STEP_BYTES, EdgeConsumer, LayerGraph
from kanserve.insight.statistics import NodeCounts
from kanserve.runtime.base import Session
from kanserve.sandbox import verify
from kanserve.types import Array, LayerScores


class _Spread(EdgeConsumer):
    """Consumer that measures the spread of the edge values of a layer."""

    def __init__(self, graph: LayerGraph) -> None:
        super().__init__(graph)
        self._edges, self._sums = Moments(), Moments()

    def add(self, row: int, offset: int, values: edge_queries.Floats) -> None:
        """Add edge values [n, S, D]."""
        self._edges.add(values)
        self._sums.add(values.sum(axis=1, dtype=np.float64))

    def spread(self) -> Spread:
        """The spread of all added values."""
        return Spread(self._edges.std(), self._sums.std())


def reference(manifest: Manifest) -> dict[str, Array]:
    """The reference rows of an export by input. Raises FailedPrecondition for fewer than two."""
    if len(manifest.reference.inputs) < 2:
        raise FailedPrecondition(
            f"model '{manifest.name}' has no reference rows", code="reference-rows-missing", hint="send rows"
        )
    return verify.feeds(manifest)


def edge_scores(
    session: Session,
    graphs: tuple[LayerGraph, ...],
    manifest: Manifest,
    rows: Mapping[str, Array],
    *,
    chunk_bytes: int = edge_queries.CHUNK_BYTES,
    piece_rows: int = 0,
) -> Iterator[tuple[LayerScores, ...] | None]:
    """Scores of all layers over `rows` [B, ...] by input. Yields None after each step, and the result at the end."""
    nodes = edge_queries.NodeVectors(session, manifest.layers, rows, piece_rows, chunk_bytes)
    spreads = [_Spread(graph) for graph in graphs]
    yield from edge_queries.stream_edges(nodes, spreads, min(chunk_bytes, STEP_BYTES))
    layer_scores = [spread.spread() for spread in spreads]
    widths = [*(graph.node_input.shape[-1] for graph in graphs), manifest.output.shape[-1]]
    yield as_layers(scores.attribute(manifest.layers, layer_scores, widths), layer_scores)


def as_layers(layer_scores: Sequence[Scores], spreads: Sequence[Spread]) -> tuple[LayerScores, ...]:
    """Scores and spreads of all layers, as the response has them."""
    return tuple(
        LayerScores(
            at,
            score.edges.astype(np.float32),
            spread.edges.astype(np.float32),
            score.nodes.astype(np.float32),
        )
        for at, (score, spread) in enumerate(zip(layer_scores, spreads, strict=True))
    )


class _Before(Window):
    """Baseline of some nodes: counts per grid interval, and the moments of all values. The class spreads the values
    of an interval evenly over it, and puts values beyond the bounds on the bounds. It then shifts and scales all
    values so that their mean and standard deviation are those of the rows."""

    def __init__(self, baseline: NodeBaseline) -> None:
        super().__init__(Cells.from_bounds(baseline.cells, len(baseline.counts)))
        for node, counts in enumerate(baseline.counts):
            self.counts[node, : len(counts)] = counts
        self.nonfinite = np.array(baseline.nonfinite, np.int64)
        inner = self.cells.bounds.T[:, 1:] - self.cells.bounds.T[:, :-1]
        self.squares[:, 1:-1] = self.counts[:, 1:-1] * np.where(np.isfinite(inner), inner, 0.0) ** 2 / 12
        self._known = np.array(baseline.mean), np.array(baseline.std)

    def points(self) -> tuple[grids.Floats, grids.Floats]:
        """The points of `Window`, with the moments of the rows."""
        x, weights = super().points()
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        mean = (weights * x).sum(axis=1, keepdims=True) / total
        spread = np.sqrt((weights * (x - mean) ** 2).sum(axis=1, keepdims=True) / total)
        known, std = (moment[:, None] for moment in self._known)
        stretched = known + (x - mean) * std / np.where(spread > 0, spread, 1.0)
        return np.where(np.isfinite(known) & np.isfinite(std), stretched, x), weights

    def moments(self) -> tuple[grids.Floats, grids.Floats]:
        """The moments of the rows."""
        count = self.values.astype(np.float64)
        with np.errstate(all="ignore"):
            return self._known[0], self._known[1] * np.sqrt(count / np.where(count > 1, count - 1, np.nan))


def baseline_counts(manifest: Manifest) -> NodeCounts:
    """The baseline of an export, in the form of counts."""
    baseline = manifest.baseline
    windows = tuple(_Before(nodes) for nodes in (*baseline.layers, *baseline.outputs))
    return NodeCounts(baseline.rows, windows, np.zeros(0, np.int64))


def traffic_scores(
    graphs: Sequence[LayerGraph], manifest: Manifest, tally: NodeCounts
) -> Iterator[tuple[tuple[LayerScores, ...], tuple[str, ...]] | None]:
    """The scores of all layers of a stack over counted rows, each of class A, and notes for the reader. Yields None
    after each step, and the result at the end."""
    spreads, notes = [], []
    for at, graph in enumerate(graphs):
        window = tally.windows[at]
        weighted = Weighted(graph.layer.sources, graph.layer.destinations)
        x, weights = points(graph.layer, window)
        for part, values in curves.pieces(graph, x):
            weighted.add(values, weights[part])
            yield None
        edges, (_, node_std) = weighted.std(), tally.windows[at + 1].moments()
        sums, counted = scores.sums(graph.layer, edges, node_std)
        spreads.append(Spread(edges, sums))
        if not counted:
            notes.append(
                f"layer {at}: what the sums of its edges spread was not counted, and is that of independent sources"
            )
    lost = sum(int(window.nonfinite.sum()) for window in tally.windows[: len(graphs)])
    if lost:
        notes.append(f"{lost} values of nodes were not finite, and are in no score")
    widths = [*(window.cells.shape[0] for window in tally.windows[: len(graphs)]), manifest.output.shape[-1]]
    layer_scores = scores.attribute(manifest.layers, spreads, widths)
    yield as_layers(layer_scores, spreads), tuple(notes)


def points(layer: LayerInfo, window: Window) -> tuple[grids.Floats, grids.Floats]:
    """Values of the layer's sources [P, S], and their weights [P, S]. Points without any weight are left out."""
    columns = list(grids.columns(layer))
    x, weights = (array[columns].T for array in window.points())
    there = weights.any(axis=1)
    return np.asarray(x[there]), np.asarray(weights[there])
