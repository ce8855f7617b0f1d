"""Edge functions on a grid of points: the domain of a curve, and its slope. Arrays in, arrays out.

Shapes: N points, S sources, D destinations; the input nodes of a layer are [N, n], and each source is one of them.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import grids
from kanexport.shared.manifest import LayerInfo
from kanserve.types import CurveBlock, LayerCurves

POINTS, MOST_POINTS = 101, 1024
MARGIN = 0.02  # of a grid's range, on either side
AROUND = 0.1  # of an observed range, on either side
STEP = 0.0005  # of a range: distance of the two points of a derivative
ROUNDS, ZOOM = 4, 9  # refinements of an extreme, and points of each; each refinement has 25% of the distance before
SYMBOLIC, NOTHING = "symbolic", "nothing"
BLOCK = 2**19  # bytes of phi in one block

Floats = NDArray[np.float64]


class Origin(enum.StrEnum):
    """Origin of the range of a curve."""

    REQUESTED = "requested"
    GRID = "grid"
    REFERENCE = "reference"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Domain:
    """Range of each source, from `low` to `high` [S]. `origins` [S]: the origin of each range."""

    low: Floats
    high: Floats
    origins: tuple[Origin, ...]


def columns(layer: LayerInfo) -> tuple[int, ...]:
    """Input node of each source of the layer, [S]. The layer is of class A: every other step before its sources is
    elementwise."""
    indices: tuple[int, ...] = ()
    for step in layer.pre_steps:
        if step.kind == "select":
            indices = tuple(indices[at] for at in step.indices) if indices else step.indices
    return indices or tuple(range(layer.sources))


def domain(layer: LayerInfo, observed: Floats | None) -> Domain:
    """Domain of each source of the layer. `observed` [R, S]: the values of the sources for some rows.

    A source with knots has its extended grid in the units of its node, unless a step other than a scaler stands between
    the two. Otherwise the domain is the range of `observed`, and without it -1 to 1.
    """
    sources = grids.sources(layer) or ()
    own_knots = [basis.knots for basis in layer.bases if basis.knots and not (basis.pre_steps or basis.per_edge)]
    ranges = []
    for at in range(layer.sources):
        knots = [*filter(math.isfinite, itertools.chain(*(row[at if len(row) > 1 else 0] for row in own_knots)))]
        values = np.zeros(0) if observed is None else observed[:, at][np.isfinite(observed[:, at])]
        if at < len(sources) and knots:
            low, high = sources[at].in_node_units((min(knots), max(knots)))
            ranges.append((*_widened(low, high, MARGIN), Origin.GRID))
        elif len(values):
            ranges.append((*_widened(float(values.min()), float(values.max()), AROUND), Origin.REFERENCE))
        else:
            ranges.append((-1.0, 1.0, Origin.ASSUMED))
    lows, highs, origins = zip(*ranges, strict=True)
    return Domain(np.array(lows), np.array(highs), tuple(origins))


def centre(layer: LayerInfo, width: int) -> Floats | None:
    """The center of the grid of each input node of the layer [n], 0 for a node that is not a source. None if a source
    has no grid."""
    limits = domain(layer, None)
    which = list(columns(layer))
    if set(limits.origins) != {Origin.GRID} or not all(at < width for at in which):
        return None
    middle = np.zeros(width)
    middle[which] = (limits.low + limits.high) / 2
    return middle


def requested(low: float, high: float, sources: int) -> Domain:
    """Domain with the same range for every source."""
    return Domain(np.full(sources, low), np.full(sources, high), (Origin.REQUESTED,) * sources)


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    more = (high - low) * share if high > low else 0.5
    return low - more, high + more


def grid(domain: Domain, points: int, dtype: np.dtype[Any]) -> Floats:
    """`N` points [N, S] from low to high, rounded to `dtype`, so that phi is of exactly these points."""
    at = np.linspace(0.0, 1.0, points)[:, None]
    return np.asarray(domain.low + (domain.high - domain.low) * at, dtype).astype(np.float64)


def neighbours(x: Floats, domain: Domain, dtype: np.dtype[Any]) -> tuple[Floats, Floats]:
    """The points slightly below and above each of `x` [N, S], rounded to `dtype`."""
    step = np.maximum((domain.high - domain.low) * STEP, 4 * np.spacing(np.abs(x).astype(dtype)).astype(np.float64))
    below, above = (np.asarray(x + side, dtype).astype(np.float64) for side in (-step, step))
    return below, above


def slope(below: Floats, above: Floats, left: NDArray[np.floating], right: NDArray[np.floating]) -> Floats:
    """Slopes [N, S, D] of phi, whose values are `left` at `below` [N, S] and `right` at `above`."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (right.astype(np.float64) - left) / (above - below)[:, :, None]


def named_parts(layer: LayerInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Kinds of a layer's parts, and the outputs of its edge graph for some of them. A layer with one kind needs no
    outputs. If the export does not separate its bases, the layer is one part, named after all kinds."""
    separate = [(basis.kind, basis.edges_tensor) for basis in layer.bases if basis.edges_tensor]
    symbolic = (SYMBOLIC,) * bool(layer.symbolic)
    if not separate:
        return ("+".join((*(basis.kind for basis in layer.bases), *symbolic)) or NOTHING,), ()
    kinds = [kind for kind, _ in separate]
    named = (kind if kinds.count(kind) == 1 else f"{kind}{at}" for at, kind in enumerate(kinds))
    return (*named, *symbolic), tuple(name for _, name in separate)


def all_parts(
    layer: LayerInfo, total: NDArray[np.floating], own: Sequence[NDArray[np.floating]]
) -> list[NDArray[np.floating]]:
    """Parts in the order of the kinds: those with an output of the graph, and the rest for the symbolic functions."""
    if not own:
        return [total]
    return [*own, *([total - sum(own, np.zeros((), total.dtype))] if layer.symbolic else [])]


def blocks(sources: Sequence[int], destinations: Sequence[int], points: int) -> Iterator[tuple[slice, slice]]:
    """Positions in both lists for blocks of about equal size. A block has as many sources as fit; if one source is too
    large, its destinations are divided."""
    curve_bytes = max(1, points * 4)
    columns = max(1, min(len(destinations), BLOCK // curve_bytes))
    rows = max(1, BLOCK // (curve_bytes * columns)) if columns == len(destinations) else 1
    for first in range(0, len(sources), rows):
        for second in range(0, len(destinations), columns):
            yield slice(first, first + rows), slice(second, second + columns)


def joined(blocks: Iterable[CurveBlock]) -> tuple[LayerCurves, ...]:
    """All blocks of a response, joined to one entry per layer. They are in the order of `blocks`: layer by layer, and
    the destinations of a source one after the other."""
    layers: dict[int, list[CurveBlock]] = {}
    for block in blocks:
        layers.setdefault(block.layer, []).append(block)
    return tuple(_joined_layer(layer, own) for layer, own in layers.items())


def _joined_layer(layer: int, own: Sequence[CurveBlock]) -> LayerCurves:
    by_sources: dict[tuple[int, ...], list[CurveBlock]] = {}
    for block in own:
        by_sources.setdefault(block.sources, []).append(block)
    rows, first = list(by_sources.values()), own[0]

    def whole(values: Callable[[CurveBlock], Any]) -> Any:
        return np.concatenate([np.concatenate([values(block) for block in row], axis=1) for row in rows])

    def part(which: int) -> Any:
        return whole(lambda block: block.parts[which][1])

    def extrema(which: int) -> Any:
        return whole(lambda block: None if block.extrema is None else block.extrema[which])

    return LayerCurves(
        layer=layer,
        sources=tuple(itertools.chain.from_iterable(by_sources)),
        destinations=tuple(itertools.chain.from_iterable(block.destinations for block in rows[0])),  # as in all rows
        x=np.concatenate([row[0].x for row in rows]),
        phi=whole(lambda block: block.phi),
        derivative=None if first.derivative is None else whole(lambda block: block.derivative),
        domains=tuple(itertools.chain.from_iterable(row[0].domains for row in rows)),
        parts={kind: part(at) for at, (kind, _) in enumerate(first.parts)},
        extrema=None if first.extrema is None else (extrema(0), extrema(1)),
    )


def between(low: Floats, high: Floats) -> Floats:
    """Points [ZOOM, S, D] at equal distances, both ends included."""
    steps = np.linspace(0.0, 1.0, ZOOM)[:, None, None]
    return np.asarray(low * (1 - steps) + high * steps)


def _best(values: Floats, *, largest: bool) -> NDArray[np.intp]:
    """The index [S, D] of the smallest finite value in [N, S, D], or of the largest."""
    finite = np.where(np.isfinite(values), values, -np.inf if largest else np.inf)
    return np.asarray(finite.argmax(axis=0) if largest else finite.argmin(axis=0))


def best(x: Floats, values: Floats, *, largest: bool) -> tuple[Floats, Floats]:
    """The x [S, D] of the smallest or largest of each edge's own points [N, S, D], and the value there."""
    at = _best(values, largest=largest)[None]
    where, value = (np.take_along_axis(array, at, axis=0)[0].astype(np.float64) for array in (x, values))
    none = ~np.isfinite(values).any(axis=0)
    where[none] = value[none] = np.nan
    return where, value


def extremum_interval(x: Floats, values: Floats, *, largest: bool) -> tuple[Floats, Floats]:
    """Neighbours [S, D], among the points [N, S, D], of the point with the smallest or the largest finite value of
    each edge."""
    at = _best(values, largest=largest)
    low, high = (np.take_along_axis(x, np.clip(at + side, 0, len(x) - 1)[None], axis=0)[0] for side in (-1, 1))
    return low, high
