"""Selection of the curves that a report needs: those on the network, and those of the edges with the largest scores.

The server fetches them from its use cases, and the command from a server. `content` then makes the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kanserve.plotting import scenes
from kanserve.types import CurveRequest, Description, LayerCurves, Scores

POINTS = 33  # of a curve on the network
LARGE = 129  # of a curve in a separate picture
EDGES = 24  # edges with a separate picture

Edge = tuple[int, int, int]  # layer, source, destination
Curves = Mapping[CurveRequest, Sequence[LayerCurves]]  # responses; empty for a request without curves


@dataclass(frozen=True, slots=True)
class Plan:
    """The content of a report, except for curves. `scores` None: the model has none, and the report has no pictures.
    `edges` have a picture each, the largest score first."""

    described: Description
    scores: Scores | None
    edges: tuple[Edge, ...]

    @property
    def requests(self) -> tuple[CurveRequest, ...]:
        """The requests for all curves of the report."""
        if self.scores is None:
            return ()
        on_network = on_network_request(self.described)
        return (*([on_network] if on_network is not None else []), *self.edge_requests)

    @property
    def edge_requests(self) -> tuple[CurveRequest, ...]:
        """One request per layer for the curves of `edges`, because one curve takes as long as all of them."""
        by_layer: dict[int, list[Edge]] = {}
        for edge in self.edges:
            by_layer.setdefault(edge[0], []).append(edge)
        return tuple(
            CurveRequest(
                self.described.name,
                self.described.version,
                LARGE,
                layers=(layer,),
                sources=tuple(sorted({source for _, source, _ in own})),
                destinations=tuple(sorted({destination for *_, destination in own})),
            )
            for layer, own in by_layer.items()
        )


def plan(described: Description, scores: Scores | None) -> Plan:
    """Choose the edges of a report. For a million edges this takes 0.1 s."""
    chosen = [] if scores is None else strongest(scores, EDGES)
    return Plan(described, scores, tuple((layer, source, destination) for layer, source, destination, _ in chosen))


def on_network_request(described: Description) -> CurveRequest | None:
    """The request for the curves on the network. None if no layer is drawn with curves."""
    small = tuple(
        at
        for at, layer in enumerate(described.layers)
        if layer.sources * layer.destinations <= scenes.CURVES and layer.edge_class == "A"
    )
    return CurveRequest(described.name, described.version, POINTS, layers=small) if small else None


def strongest(scores: Scores, most: int) -> list[tuple[int, int, int, float]]:
    """(layer, source, destination, score) of the edges with the largest scores, in this order."""
    flat = np.concatenate([layer.edges.ravel() for layer in scores.layers]).astype(np.float64)
    ends = np.cumsum([layer.edges.size for layer in scores.layers])
    order = np.argsort(-np.where(np.isnan(flat), np.inf, flat), kind="stable")[:most]
    edges = []
    for at in order.tolist():
        layer = int(np.searchsorted(ends, at, side="right"))
        shape = scores.layers[layer].edges.shape
        source, destination = np.unravel_index(at - (int(ends[layer - 1]) if layer else 0), shape)
        edges.append((layer, int(source), int(destination), float(flat[at])))
    return edges
