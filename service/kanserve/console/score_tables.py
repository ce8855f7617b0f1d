"""Scores for people, as tables, and for machines, as a document."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanexport.shared.tables import Table
from kanserve.client.description import Description
from kanserve.client.scores import Scores
from kanserve.console.drawing import bar

OVER = {
    "rows": "the rows that were given",
    "live": "of the model's traffic that were looked into",
    "baseline": "that the export was given (--reference), as it has counted them",
    "reference": "the rows that the export was proved with, which are no data: --input has yours",
}


def document(described: Description, found: Scores, show: int) -> dict[str, Any]:
    """For JSON: every input, and the edges that matter most."""
    return {
        "model": described.name,
        "version": found.version,
        "digest": described.digest,
        "over": found.over,
        "rows": found.row_count,
        "notes": list(found.notes),
        "features": {described.names.feature(at): float(score) for at, score in enumerate(found.features)},
        "edges": [
            {
                "layer": layer,
                "source": source,
                "source_name": described.source(layer, source),
                "destination": destination,
                "destination_name": described.destination(layer, destination),
                "score": score,
                "spread": float(found.layers[layer].spread[source, destination]),
            }
            for layer, source, destination, score in strongest(found, show)
        ],
    }


def strongest(found: Scores, most: int) -> list[tuple[int, int, int, float]]:
    """(layer, source, destination, score) of the edges of the largest scores, those first."""
    flat = np.concatenate([layer.edges.ravel() for layer in found.layers]).astype(np.float64)
    ends = np.cumsum([layer.edges.size for layer in found.layers])
    order = np.argsort(-np.where(np.isnan(flat), np.inf, flat), kind="stable")[:most]
    edges = []
    for at in order.tolist():
        layer = int(np.searchsorted(ends, at, side="right"))
        shape = found.layers[layer].edges.shape
        source, destination = np.unravel_index(at - (int(ends[layer - 1]) if layer else 0), shape)
        edges.append((layer, int(source), int(destination), float(flat[at])))
    return edges


def features(described: Description, found: Scores, show: int) -> Table:
    """Inputs, the one that matters most first."""
    scores = found.features.astype(np.float64)
    order = np.argsort(-np.where(np.isnan(scores), np.inf, scores), kind="stable")[:show]
    table = Table(
        f"{described.name} version {found.version}: what its inputs matter",
        ("input", "score", ""),
        numbers=("score",),
        caption=(
            f"{len(order)} of {len(scores)} inputs, over {found.row_count} rows: {OVER.get(found.over, '')}",
            *found.notes,
        ),
    )
    largest = float(np.nanmax(scores, initial=0.0))
    for at in order.tolist():
        table.add(described.names.feature(at), f"{scores[at]:.4g}", bar(float(scores[at]), largest))
    return table


def edges(described: Description, found: Scores, show: int) -> Table:
    """Edges, those first that matter most."""
    rows = strongest(found, show)
    table = Table(
        "",
        ("edge", "score", "", "std φ"),
        numbers=("score", "std φ"),
        caption=(f"{len(rows)} of {sum(layer.edges.size for layer in found.layers)} edges",),
    )
    largest = max((score for *_, score in rows if np.isfinite(score)), default=0.0)
    for layer, source, destination, score in rows:
        name = f"{layer}: {described.source(layer, source)} → {described.destination(layer, destination)}"
        spread = found.layers[layer].spread[source, destination]
        table.add(name, f"{score:.4g}", bar(score, largest), f"{spread:.4g}")
    return table
