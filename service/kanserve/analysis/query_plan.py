"""Plan of an edge query: the selected edges, the size of the response, and the selection from edge values.

Shapes: N executions of a layer, rows x positions; S sources, D destinations; s and d the selected ones; k edges.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.manifest import LayerInfo, NodeStep
from kanserve.errors import BadRequest
from kanserve.types import PLAIN, CurveRequest, EdgeOptions, EdgeRequest

VALUE_BYTES = 4  # sent as float32
INDEX_BYTES = 5  # at most, packed
LAYER_BYTES = 64  # names and lengths around one layer

KNOWN_LIMIT = 20  # names in an error
NAME_LIMIT = 64  # characters of a name in an error

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Part of the query for one layer. `nodes`: number of its input nodes."""

    layer: int
    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    positions: tuple[int, ...] = ()
    nodes: int = 0
    options: EdgeOptions = PLAIN

    @property
    def top_k(self) -> int:
        """Largest number of edges to keep; 0: all."""
        return min(self.options.top_k, len(self.sources) * len(self.destinations))

    @property
    def picked(self) -> bool:
        """True if the selection needs the values of all edges first."""
        return bool(self.top_k or self.options.min_magnitude) and not self.options.per_row

    def shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the values: [rows, *positions, s, d], or [rows, *positions, k]."""
        edges = (self.top_k,) if self.top_k else (len(self.sources), len(self.destinations))
        return (rows, *self.positions, *edges)

    def response_bytes(self, rows: int) -> int:
        """An upper bound of the bytes on the wire, before the computation. It does not cover a selection by magnitude,
        whose number of edges is unknown."""
        extra, times = self.options, rows * math.prod(self.positions)
        unknown = extra.min_magnitude and not self.top_k
        edges = 0 if unknown else math.prod(self.shape(1)[1 + len(self.positions) :])
        indices = len(self.positions) + (2 * self.top_k or len(self.sources) + len(self.destinations))
        if extra.reductions:
            count = len(extra.reductions) + len(extra.quantiles) + 2 * extra.bins * ("histogram" in extra.reductions)
            return count * edges * VALUE_BYTES + indices * INDEX_BYTES + LAYER_BYTES
        numbers = edges * (3 if extra.per_row else 1)
        numbers += len(self.destinations) * extra.residual + self.nodes * extra.nodes
        return times * numbers * VALUE_BYTES + indices * INDEX_BYTES + LAYER_BYTES


def plan(
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    request: EdgeRequest | CurveRequest,
    options: EdgeOptions = PLAIN,
) -> tuple[LayerPlan, ...]:
    """Resolve the selection of a request against the layers of a model; an empty list means all. `widths`: number of
    input nodes of each layer.

    Raises BadRequest for what does not exist in a selected layer or is named
    twice. `top_k` beyond the selected edges keeps them all.
    """
    plans = []
    for at in find([layer.name for layer in layers], request.layers):
        layer = layers[at]
        rows = _resolve(request.sources, layer.sources, "source", f"layer {at}")
        columns = _resolve(request.destinations, layer.destinations, "destination", f"layer {at}")
        plans.append(LayerPlan(at, rows, columns, layer.positions, widths[at], options))
    return tuple(plans)


def find(names: Sequence[str], selection: Sequence[int | str]) -> tuple[int, ...]:
    """Indices of the layers selected by index or by name, in this order; all for an empty selection.

    `names`: the names of the model's layers, "" for a layer without one. A name of several layers selects all of them.
    Raises BadRequest for an unknown layer.
    """
    named: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        if name:
            named.setdefault(name, []).append(at)
    chosen: list[int] = []
    for item in selection:
        if not isinstance(item, str):
            chosen.append(item)
        elif item in named:
            chosen += named[item]
        else:
            numbers = f"its {len(names)} layers have the numbers 0 to {len(names) - 1}"
            shown = ", ".join(map(_quoted, [*named][:KNOWN_LIMIT]))
            more = f" and {len(named) - KNOWN_LIMIT} more" if len(named) > KNOWN_LIMIT else ""
            known = f"the model has {shown}{more}" if named else "the layers of the model have no names"
            raise BadRequest(
                f"unknown layer {_quoted(item)}: {known}; {numbers}",
                code="layer-unknown",
                hint="send a name or a number of a layer of the model",
            )
    return _resolve(chosen, len(names), "layer", "the model")


def pick(values: Floats, layer: LayerPlan) -> Floats:
    """The selected values [N, s, d] of [N, S, D], in the requested order."""
    if len(layer.sources) != values.shape[1] or layer.sources != tuple(range(values.shape[1])):
        values = values[:, list(layer.sources), :]
    if len(layer.destinations) != values.shape[2] or layer.destinations != tuple(range(values.shape[2])):
        values = values[:, :, list(layer.destinations)]
    return values


def strengths(values: Floats) -> Floats:
    """The largest magnitude of each edge: [N, s, d] -> [s, d]; 0 without rows.

    NaN counts as infinite, so that a reader sees a faulty edge first.
    """
    if values.shape[0] == 0:
        return np.zeros(values.shape[1:], values.dtype)
    largest: Floats = np.abs(values[0]) if len(values) == 1 else np.abs(values).max(axis=0)
    largest[np.isnan(largest)] = np.inf
    return largest


PART = 512  # edges of which the largest is found first


def strongest(strength: Floats, k: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the k strongest in [s, d], strongest first; ties by position."""
    flat = strength.ravel()
    among = np.arange(flat.size) if not 0 < k < flat.size else _candidates(flat, k)
    order = among[np.argsort(-flat[among], kind="stable")[:k]]
    rows, columns = np.unravel_index(order, strength.shape)
    return rows, columns


def _candidates(flat: Floats, k: int) -> NDArray[np.intp]:
    """Positions of the k strongest and of those that tie with the last of them, in order. The maxima of k parts give a
    bound that few others exceed; a partition of a million edges takes ten times as long."""
    among, parts = None, flat.size // PART
    if parts >= k:
        maxima = flat[: parts * PART].reshape(parts, PART).max(axis=1)
        among = np.flatnonzero(flat >= np.partition(maxima, parts - k)[parts - k])
        flat = flat[among]
    kept = np.flatnonzero(flat >= np.partition(flat, flat.size - k)[flat.size - k])
    return kept if among is None else among[kept]


def strongest_each(values: Floats, k: int) -> NDArray[np.intp]:
    """[N, s, d] -> [N, k]: positions in [s, d], flat, of the k strongest of each by itself, strongest first; ties by
    position."""
    magnitude = np.abs(values.reshape(len(values), math.prod(values.shape[1:])))
    magnitude[np.isnan(magnitude)] = np.inf
    if not 0 < k < magnitude.shape[1]:
        return np.argsort(-magnitude, axis=1, kind="stable")[:, :k]
    chosen = [strongest(row[None], k)[1] for row in magnitude]
    return np.stack(chosen) if chosen else np.zeros((0, k), np.intp)


def largest(values: Floats, k: int) -> NDArray[np.int32]:
    """[B, n, O] -> [B, O, k]: which of the n have the largest magnitude, for each of O; ties by position. NaN counts as
    infinite, as above."""
    magnitude = np.abs(values).transpose(0, 2, 1)
    order = np.argsort(-np.where(np.isnan(magnitude), np.inf, magnitude), axis=2, kind="stable")
    return order[:, :, :k].astype(np.int32)


def _resolve(requested: Sequence[int], size: int, what: str, where: str) -> tuple[int, ...]:
    if not requested:
        return tuple(range(size))
    for index in requested:
        if not 0 <= index < size:
            raise BadRequest(
                f"unknown {what} {index}: {where} has {size} {what}s",
                code="selection-unknown",
                hint=f"send numbers from 0 to {size - 1}",
            )
    if len(set(requested)) != len(requested):
        twice = collections.Counter(requested).most_common(1)[0][0]
        raise BadRequest(f"{what} {twice} is named twice", code="selection-duplicate", hint=f"name each {what} once")
    return tuple(requested)


def _quoted(name: str) -> str:
    return repr(name if len(name) <= NAME_LIMIT else f"{name[:NAME_LIMIT]}...")


Flags = NDArray[np.bool_]
ALONE = frozenset({"affine", "standardize", "prelu", "swish", "clip"})  # each node by itself
WHOLE = frozenset({"softmax", "log_softmax"})  # functions of all nodes of a row


def on_the_way(
    layers: Sequence[LayerInfo], widths: Sequence[int], start: int, end: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Sources and destinations, by layer, of the edges on the paths from input node `start` of the first layer to
    result `end` of the last. Both are empty if there is no path. `widths`: number of input nodes of each layer."""
    links = [sources(layer, width) for layer, width in zip(layers, widths, strict=True)]
    active = [edges(layer) for layer in layers]
    between = [results(layer) for layer in layers[:-1]]  # from sums to nodes of the next layer
    for at, width in enumerate(widths[1 : len(layers)]):
        if between[at].shape[1] != width:  # a step between them mixes nodes: all are linked with all
            between[at] = np.ones((layers[at].destinations, width), bool)
    reached = [links[0][start]]  # the sources of each layer
    for at, onward in enumerate(between):
        reached.append(_through(_through(_through(reached[at], active[at]), onward), links[at + 1]))
    targets = [results(layers[-1])[:, end]]  # the destinations of each layer, the last first
    for at in reversed(range(len(between))):
        needed = _through(_through(targets[-1], active[at + 1].T), links[at + 1].T)
        targets.append(_through(needed, between[at].T))
    result = []
    for flags, there, back in zip(active, reached, reversed(targets), strict=True):
        on = flags & there[:, None] & back[None]
        result.append((_true(on.any(axis=1)), _true(on.any(axis=0))))
    return result


def _through(flags: Flags, links: Flags) -> Flags:
    """Flags [b] of the nodes that are linked [a, b] with any of the nodes [a]."""
    return np.asarray(links[flags].any(axis=0))


def edges(layer: LayerInfo) -> Flags:
    """Flags [S, D] of the edges that have a function."""
    active = np.array(layer.mask) != 0 if layer.mask else np.ones((layer.sources, layer.destinations), bool)
    for edge in layer.symbolic:
        active[edge.source, edge.destination] |= edge.mask != 0
    return active


def sources(layer: LayerInfo, width: int) -> Flags:
    """Links [n, S] from nodes to sources, for all bases."""
    chains = [(*layer.pre_steps, *basis.pre_steps) for basis in layer.bases] or [layer.pre_steps]
    links = [_handed(chain, width) for chain in chains]
    shape = (width, layer.sources)
    links = [link if link.shape == shape else np.ones(shape, bool) for link in links]
    return np.asarray(np.logical_or.reduce(links))


def results(layer: LayerInfo) -> Flags:
    """Links [D, m] from sums to results."""
    return _handed(layer.post_steps, layer.destinations)


def _handed(chain: Sequence[NodeStep], width: int) -> Flags:
    """Links [width, m] through all steps."""
    links: Flags = np.eye(width, dtype=bool)
    for step in chain:
        links = (links @ _step(step, links.shape[1])).astype(bool)
    return links


def _step(step: NodeStep, width: int) -> Flags:
    """Links [width, m] through one step."""
    if step.kind == "select":
        return np.asarray(np.arange(width)[:, None] == np.array(step.indices, int)[None])
    if step.kind == "product":
        groups = np.arange(len(step.indices))
        return np.asarray(np.repeat(groups, step.indices)[:, None] == groups[None])
    if step.kind in ALONE or (step.kind == "function" and step.function not in WHOLE):
        return np.eye(width, dtype=bool)
    return np.ones((width, width), bool)


def _true(flags: Flags) -> tuple[int, ...]:
    return tuple(np.flatnonzero(flags).tolist())
