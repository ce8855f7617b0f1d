"""What edges, nodes and inputs matter over a batch, as plain arrays: the answer of EdgeScores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanserve.client.description import Description
from kanserve.client.rows import packed
from kanserve.pb import kan_pb2 as kan


@dataclass(frozen=True, slots=True)
class LayerScores:
    """`edges` [S, D] and `nodes` [n], what a layer is given: pykan's edge_scores and node_scores. `spread` [S, D]: the
    standard deviation of each edge's values. All float32."""

    layer: int
    edges: NDArray[np.float32]
    spread: NDArray[np.float32]
    nodes: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of all layers, over `row_count` rows: the caller's ("rows"), the reference rows of the export ("reference"), or
    those of the model's traffic that were looked into ("live"). `notes`: what a reader should know."""

    version: str
    over: str
    row_count: int
    layers: tuple[LayerScores, ...]
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> NDArray[np.float32]:
        """Of the model's inputs: pykan's feature_score."""
        return self.layers[0].nodes


def request(described: Description, rows: Any, over: str) -> kan.EdgeScoresRequest:
    """The message that asks for them; without rows, over those of the export, or over what is asked for."""
    given = {} if rows is None else packed(described, rows)
    return kan.EdgeScoresRequest(model_name=described.name, model_version=described.version, over=over, **given)


def of(answer: kan.EdgeScoresResponse) -> Scores:
    """The answer as plain values."""
    return Scores(
        answer.model_version, answer.over, answer.row_count, tuple(map(_layer, answer.layers)), tuple(answer.notes)
    )


def _layer(layer: kan.LayerScores) -> LayerScores:
    edges, spread = (
        np.frombuffer(part, "<f4").reshape(layer.sources, layer.destinations) for part in (layer.edges, layer.spread)
    )
    return LayerScores(layer.layer, edges, spread, np.frombuffer(layer.nodes, "<f4"))
