"""Scores of a model's edges over a batch, from its edge graphs: what moves, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kanexport.manifest import Manifest
from kanserve.backends import Session
from kanserve.errors import NotPossible
from kanserve.interpret import scores
from kanserve.interpret.scores import Moments, Scores, Spread
from kanserve.models import edges
from kanserve.models.edges import STEP_BYTES, LayerGraph, Taker
from kanserve.nouns import Array, LayerScores
from kanserve.trials import proving


class _Spread(Taker):
    """How much the edges of a layer move."""

    def __init__(self, graph: LayerGraph) -> None:
        super().__init__(graph, graph.layer.positions)
        self._edges, self._sums = Moments(), Moments()

    def add(self, row: int, offset: int, values: edges.Floats) -> None:
        """Edge values [n, S, D]."""
        self._edges.add(values)
        self._sums.add(values.sum(axis=1, dtype=np.float64))

    def spread(self) -> Spread:
        """Over all that was added."""
        return Spread(self._edges.std(), self._sums.std())


def reference(manifest: Manifest) -> dict[str, Array]:
    """The reference rows of an export by input. Raises NotPossible where there are not two."""
    if len(manifest.reference.inputs) < 2:
        raise NotPossible(f"model '{manifest.name}' has no reference rows of its own: send rows")
    return proving.feeds(manifest)


def compute(
    session: Session,
    graphs: tuple[LayerGraph, ...],
    manifest: Manifest,
    rows: Mapping[str, Array],
    *,
    chunk_bytes: int,
    piece_rows: int = 0,
) -> Iterator[tuple[LayerScores, ...] | None]:
    """Scores of all layers over `rows` [B, ...] by input: None after each step, and at last the answer."""
    nodes = edges.Nodes(session, manifest.layers, rows, piece_rows, chunk_bytes)
    spreads = [_Spread(graph) for graph in graphs]
    yield from edges.work(nodes, spreads, min(chunk_bytes, STEP_BYTES))
    found = [one.spread() for one in spreads]
    widths = [*(graph.given.shape[-1] for graph in graphs), manifest.output.shape[-1]]
    yield as_layers(scores.attribute(manifest.layers, found, widths), found)


def as_layers(found: Sequence[Scores], spreads: Sequence[Spread]) -> tuple[LayerScores, ...]:
    """Scores and spreads of all layers, as they are told."""
    return tuple(
        LayerScores(
            at,
            score.edges.astype(np.float32),
            spread.edges.astype(np.float32),
            score.nodes.astype(np.float32),
        )
        for at, (score, spread) in enumerate(zip(found, spreads, strict=True))
    )
