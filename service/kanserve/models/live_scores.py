"""Scores of a model's edges over its traffic, from what was counted of it and the curves of the edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.manifest import LayerInfo, Manifest
from kanserve.interpret import curves as grids
from kanserve.interpret import importance, scores
from kanserve.interpret.importance import Weighted
from kanserve.interpret.scores import Spread
from kanserve.interpret.window import Window
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
