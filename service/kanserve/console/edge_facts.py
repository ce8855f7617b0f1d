"""What edges did with rows, in figures: strength, extremes, distribution of values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanserve.client.answers import LayerValues
from kanserve.client.description import Description

BINS = 16


@dataclass(frozen=True, slots=True)
class Strength:
    """One edge over all rows and positions: mean magnitude and extremes of phi, and a
    histogram of its finite values in 16 equal parts of minimum to maximum.

    `share` is its part of the summed mean magnitudes of the edges that were asked for in its layer.
    """

    layer: int
    layer_name: str
    source: int
    destination: int
    mean_abs: float
    share: float
    minimum: float
    maximum: float
    symbolic: str
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The answer to an edge query in figures. `layers` were asked, by index; `total` edges are
    in them, of which `strongest` holds some, strongest first."""

    layers: tuple[int, ...]
    total: int
    strongest: tuple[Strength, ...]


def survey(described: Description, answers: Iterable[LayerValues], *, most: int) -> Survey:
    """The `most` strongest edges of all answers; each answer is dropped once it is measured."""
    layers, total, strongest = [], 0, []
    for answer in answers:
        pairs = _pairs(described, answer)
        layers.append(answer.layer)
        total += len(pairs)
        strongest += measure(described, answer, pairs, most=most)
    strongest.sort(key=lambda edge: (-_rank(edge.mean_abs), edge.layer, edge.source, edge.destination))
    return Survey(tuple(layers), total, tuple(strongest[:most]))


def measure(described: Description, answer: LayerValues, pairs: list[tuple[int, int]], *, most: int) -> list[Strength]:
    """The strongest edges of one layer, over rows and positions; `pairs` are the (source,
    destination) of its columns. NaN counts as the strongest: it is what to look at."""
    if not answer.values.size:
        return []
    layer = described.layers[answer.layer]
    symbolic = {(edge.source, edge.destination): edge.function for edge in layer.symbolic}
    values = answer.values.reshape(-1, len(pairs))
    mean_abs = np.abs(values).mean(axis=0, dtype=np.float64)
    minimum, maximum = values.min(axis=0), values.max(axis=0)
    total = float(np.nansum(mean_abs)) or 1.0
    order = np.argsort(-np.where(np.isnan(mean_abs), np.inf, mean_abs), kind="stable")
    return [
        Strength(
            layer=answer.layer,
            layer_name=layer.name,
            source=pairs[at][0],
            destination=pairs[at][1],
            mean_abs=float(mean_abs[at]),
            share=float(mean_abs[at]) / total,
            minimum=float(minimum[at]),
            maximum=float(maximum[at]),
            symbolic=symbolic.get(pairs[at], ""),
            histogram=_histogram(values[:, at]),
        )
        for at in order[:most].tolist()
    ]


def _pairs(described: Description, answer: LayerValues) -> list[tuple[int, int]]:
    """Source and destination along the last axis of values, or along the last two."""
    sources, destinations = answer.sources.tolist(), answer.destinations.tolist()
    positions = described.layers[answer.layer].positions
    if answer.values.ndim == 1 + len(positions) + 1:
        return list(zip(sources, destinations, strict=True))
    return [(source, destination) for source in sources for destination in destinations]


def _rank(strength: float) -> float:
    return math.inf if math.isnan(strength) else strength


def _histogram(values: Any) -> tuple[int, ...]:
    """Counts of the finite values; equal values lie in the middle."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return (0,) * BINS
    low, high = finite.min(), finite.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(finite, bins=BINS, range=(low, high))
    return tuple(counts.tolist())
