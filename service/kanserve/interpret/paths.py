"""Which edges lie on a way from an input to an output.

An edge is on one if its source can be reached from the input, and the output from its destination. Between layers a
step hands on what it is given to some nodes: its own column, the product that it is a factor of, or, of steps that look
at the whole row, all of them. An edge without a function (its mask is 0 and it has no symbolic one) leads nowhere.

Shapes: n nodes that a layer is given, S sources, D destinations, m results of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import LayerInfo, NodeStep

Flags = NDArray[np.bool_]
ALONE = frozenset({"affine", "prelu", "swish", "clip"})  # each node by itself
WHOLE = frozenset({"softmax", "log_softmax"})  # functions of all nodes of a row


def on_the_way(
    layers: Sequence[LayerInfo], widths: Sequence[int], start: int, end: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Of each layer the sources and destinations of the edges between node `start` that the first is given and result
    `end` of the last; none where no way leads through. `widths`: how many nodes each layer is given."""
    links = [sources(layer, width) for layer, width in zip(layers, widths, strict=True)]
    active = [edges(layer) for layer in layers]
    between = [_between(layer, width) for layer, width in zip(layers, widths[1:], strict=False)]
    reached = [links[0][start]]  # the sources of each layer
    for at, onward in enumerate(between):
        reached.append(_through(_through(_through(reached[at], active[at]), onward), links[at + 1]))
    wanted = [results(layers[-1])[:, end]]  # the destinations of each layer, the last first
    for at in reversed(range(len(between))):
        given = _through(_through(wanted[-1], active[at + 1].T), links[at + 1].T)
        wanted.append(_through(given, between[at].T))
    found = []
    for flags, there, back in zip(active, reached, reversed(wanted), strict=True):
        on = flags & there[:, None] & back[None]
        found.append((_true(on.any(axis=1)), _true(on.any(axis=0))))
    return found


def _through(flags: Flags, links: Flags) -> Flags:
    """[a] and [a, b] -> [b]: what is linked with any."""
    return np.asarray(links[flags].any(axis=0))


def _between(layer: LayerInfo, width: int) -> Flags:
    """[D, n]: which sum goes into which of so many nodes of the next layer; all into all where the steps between do not
    say."""
    found = results(layer)
    return found if found.shape[1] == width else np.ones((layer.destinations, width), bool)


def edges(layer: LayerInfo) -> Flags:
    """[S, D]: which have a function."""
    active = np.array(layer.mask) != 0 if layer.mask else np.ones((layer.sources, layer.destinations), bool)
    for edge in layer.symbolic:
        active[edge.source, edge.destination] |= edge.mask != 0
    return active


def sources(layer: LayerInfo, width: int) -> Flags:
    """[n, S]: which of so many nodes goes into which source, whatever basis reads it."""
    chains = [(*layer.before, *basis.before) for basis in layer.bases] or [layer.before]
    found = [_handed(chain, width) for chain in chains]
    shape = (width, layer.sources)
    found = [one if one.shape == shape else np.ones(shape, bool) for one in found]
    return np.asarray(np.logical_or.reduce(found))


def results(layer: LayerInfo) -> Flags:
    """[D, m]: which sum goes into which result."""
    return _handed(layer.after, layer.destinations)


def _handed(chain: Sequence[NodeStep], width: int) -> Flags:
    """[width, m] through all steps."""
    found: Flags = np.eye(width, dtype=bool)
    for step in chain:
        found = (found @ _step(step, found.shape[1])).astype(bool)
    return found


def _step(step: NodeStep, width: int) -> Flags:
    """[width, m]"""
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
