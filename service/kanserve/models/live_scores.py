"""Scores of a model's edges over its traffic, or over its baseline, from the counts and the curves of the edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.manifest import LayerInfo, Manifest
from kanexport.shared.baseline import NodeBaseline
from kanserve.interpret import curves as grids
from kanserve.interpret import importance, scores
from kanserve.interpret.importance import Weighted
from kanserve.interpret.scores import Spread
from kanserve.interpret.window import Cells, Window
from kanserve.models import curves
from kanserve.models.edges import LayerGraph
from kanserve.models.scores import as_layers
from kanserve.models.statistics import Tally
from kanserve.nouns import LayerScores


@dataclass(frozen=True, slots=True)
class LiveScores:
    """The scores, and what a reader should know of them."""

    layers: tuple[LayerScores, ...]
    notes: tuple[str, ...]


class _Before(Window):
    """The baseline of some nodes: counts per grid interval, and the moments of all values. The class spreads the values
    of an interval evenly over it, and puts values beyond the bounds on the bounds. It then shifts and scales all values
    so that their mean and standard deviation are those of the rows."""

    def __init__(self, found: NodeBaseline) -> None:
        super().__init__(Cells.of(found.cells, len(found.counts)))
        for node, counts in enumerate(found.counts):
            self.counts[node, : len(counts)] = counts
        self.nonfinite = np.array(found.nonfinite, np.int64)
        inner = self.cells.bounds.T[:, 1:] - self.cells.bounds.T[:, :-1]
        self.squares[:, 1:-1] = self.counts[:, 1:-1] * np.where(np.isfinite(inner), inner, 0.0) ** 2 / 12
        self._known = np.array(found.mean), np.array(found.std)

    def points(self) -> tuple[grids.Floats, grids.Floats]:
        """The points of `Window`, with the moments of the rows."""
        x, weights = super().points()
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        mean = (weights * x).sum(axis=1, keepdims=True) / total
        spread = np.sqrt((weights * (x - mean) ** 2).sum(axis=1, keepdims=True) / total)
        known, std = (one[:, None] for one in self._known)
        stretched = known + (x - mean) * std / np.where(spread > 0, spread, 1.0)
        return np.where(np.isfinite(known) & np.isfinite(std), stretched, x), weights

    def moments(self) -> tuple[grids.Floats, grids.Floats]:
        """The moments of the rows."""
        count = self.values.astype(np.float64)
        with np.errstate(all="ignore"):
            return self._known[0], self._known[1] * np.sqrt(count / np.where(count > 1, count - 1, np.nan))


def before(manifest: Manifest) -> Tally:
    """The baseline of an export, in the form of counts."""
    found = manifest.baseline
    windows = tuple(_Before(one) for one in (*found.layers, *found.outputs))
    return Tally(found.rows, windows, np.zeros(0, np.int64))


def compute(graphs: Sequence[LayerGraph], manifest: Manifest, tally: Tally) -> Iterator[LiveScores | None]:
    """Of all layers, each of class A, of a stack of them: None after each step, and at last the answer."""
    spreads, notes = [], []
    for at, graph in enumerate(graphs):
        window = tally.windows[at]
        weighted = Weighted(graph.layer.sources, graph.layer.destinations)
        x, weights = points(graph.layer, window)
        for part, values in curves.pieces(graph, x):
            weighted.add(values, weights[part])
            yield None
        edges, (_, given) = weighted.std(), tally.windows[at + 1].moments()
        sums, counted = importance.sums(graph.layer, edges, given)
        spreads.append(Spread(edges, sums))
        if not counted:
            notes.append(
                f"layer {at}: what the sums of its edges spread was not counted, and is that of independent sources"
            )
    lost = sum(int(window.nonfinite.sum()) for window in tally.windows[: len(graphs)])
    if lost:
        notes.append(f"{lost} values of nodes were not finite, and are in no score")
    widths = [*(window.cells.shape[0] for window in tally.windows[: len(graphs)]), manifest.output.shape[-1]]
    found = scores.attribute(manifest.layers, spreads, widths)
    yield LiveScores(as_layers(found, spreads), tuple(notes))


def points(layer: LayerInfo, window: Window) -> tuple[grids.Floats, grids.Floats]:
    """[P, S] each: values of the layer's sources, and how many each stands for; none that stands for nothing of any."""
    columns = list(grids.columns(layer))
    x, weights = (one[columns].T for one in window.points())
    there = weights.any(axis=1)
    return np.asarray(x[there]), np.asarray(weights[there])
