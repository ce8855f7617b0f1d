"""Feature attributions: distribution of the difference from a reference prediction among the inputs.

The method is reference-difference propagation ("rescale", Shrikumar et al. 2017, DeepLIFT), which suits a KAN. The
value of an edge depends on its source only. The difference phi(x) - phi(r) therefore belongs to that source,
whatever phi is. The differences of a layer's edges add up to the difference of the node. Multipliers are chained
over the layers, and the contributions of the inputs add up to f(x) - f(r). `step_rules` has the rules between
layers.

Shapes: B rows, O outputs, n input nodes of a layer, S sources, D destinations, m results of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import step_rules
from kanexport.shared.manifest import LayerInfo, NodeStep

Floats = NDArray[np.float64]
# Relative distance below which x counts as equal to the reference, with a known slope and without one. Edges have
# float32 precision, so that a known slope is more accurate than a quotient of small differences.
NEAR, NEAREST = 1e-4, 1e-9


class NoParts(ValueError):
    """Layer whose edge values are known in total only, although the parts of its bases are needed."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bases of a layer that read the same values."""

    pre_steps: tuple[NodeStep, ...]  # the steps between the layer's nodes and the values that the bases read
    tensors: tuple[str, ...]  # names of their tensors of the edge graph; empty: all tensors that are in no other part


@dataclass(frozen=True, slots=True)
class LayerActivations:
    """Activations of a layer for some rows."""

    nodes: Floats  # [B, n]
    edges: tuple[Floats, ...]  # by part, the edge values [B, S, D]

    def sums(self, layer: LayerInfo) -> Floats:
        """Sums [B, D] of the edges, with the bias."""
        total = sum((edges.sum(axis=1) for edges in self.edges), np.zeros(()))
        return np.asarray(total + np.array(layer.bias) if layer.bias else total)


def parts(layer: LayerInfo) -> tuple[Part, ...]:
    """The parts of a layer. Raises NoParts if its bases have different inputs and its export does not separate them."""
    separate = [basis for basis in layer.bases if basis.pre_steps]
    if not separate:
        return (Part(layer.pre_steps, ()),)
    if len(layer.bases) == 1 and not layer.symbolic:
        return (Part((*layer.pre_steps, *separate[0].pre_steps), ()),)
    if not any(basis.edges_tensor for basis in layer.bases):
        raise NoParts
    own = [
        Part((*layer.pre_steps, *basis.pre_steps), (basis.edges_tensor,)) for basis in separate if basis.edges_tensor
    ]
    return (*own, Part(layer.pre_steps, ()))


def divided(chosen: Sequence[Part], total: Floats, tensors: Mapping[str, Floats]) -> tuple[Floats, ...]:
    """Values [N, S, D] of each part, from the outputs of the edge graph and their sum `total`."""
    named = [sum((tensors[name] for name in part.tensors), np.zeros(())) for part in chosen]
    rest = total - sum((values for part, values in zip(chosen, named, strict=True) if part.tensors), np.zeros(()))
    return tuple(values if part.tensors else rest for part, values in zip(chosen, named, strict=True))


def read(part: Part, nodes: Floats) -> Floats:
    """Inputs [B, S] of the bases of a part, from nodes [B, n]. Raises steps.UnknownStep."""
    return _forth(part.pre_steps, nodes)[-1]


def magnitudes(layer: LayerInfo, nodes: Floats) -> Floats:
    """[B, n]: the size of the values that the edges read, at least 1, in the units of the nodes [B, n]: a mean that is
    large compared with the scale of an input does not count. At least 4000 adjacent float32 values."""
    first = layer.pre_steps[:1]
    if not first or first[0].kind != "standardize":
        return np.maximum(np.abs(nodes), 1.0)
    scale = np.array(first[0].scale)
    sizes = np.maximum(np.abs(step_rules.evaluate(first[0], nodes)), 1.0) * scale
    return np.asarray(np.maximum(sizes, 4000 * np.spacing(np.abs(nodes).astype(np.float32)).astype(np.float64)))


def apply_post_steps(layer: LayerInfo, sums: Floats) -> Floats:
    """Results [B, m] of the layer, from its sums [B, D]. Raises steps.UnknownStep."""
    for step in layer.post_steps:
        sums = step_rules.evaluate(step, sums)
    return sums


def through(
    layer: LayerInfo,
    chosen: Sequence[Part],
    x: LayerActivations,
    r: LayerActivations,
    steep: Sequence[Floats | None],
    multipliers: Floats,
) -> Floats:
    """[B, O, m] of the layer's results -> [B, O, n] of its nodes. `steep`: of each part the slope of its edges at the
    reference [1, S, D], for nodes that are as there; None: not known, and such a node has no part in what follows.
    Raises steps.UnknownStep."""
    multipliers = _back(layer.post_steps, x.sums(layer), r.sums(layer), multipliers)
    total = np.zeros(())
    for part, e_x, e_r, slope in zip(chosen, x.edges, r.edges, steep, strict=True):
        h_x, h_r = read(part, x.nodes), read(part, r.nodes)
        rates = quotients(e_x, e_r, h_x, h_r, slope)
        total = total + _back(part.pre_steps, x.nodes, r.nodes, np.matmul(multipliers, rates.transpose(0, 2, 1)))
    return np.asarray(total)


def carried(layer: LayerInfo, x: LayerActivations, r: LayerActivations, multipliers: Floats) -> Floats:
    """Contributions [B, O, S, D] of each edge to the outputs' differences, from those [B, O, m] of the layer's results.
    Raises steps.UnknownStep."""
    multipliers = _back(layer.post_steps, x.sums(layer), r.sums(layer), multipliers)
    difference = sum((e_x - e_r for e_x, e_r in zip(x.edges, r.edges, strict=True)), np.zeros(()))
    return np.asarray(multipliers[:, :, None, :] * difference[:, None])


def strongest(values: Floats, k: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], Floats, Floats]:
    """Sources, destinations and values [B, O, k] of the edges with the largest contributions in [B, O, S, D], and the
    sum [B, O] of all others. NaN counts as largest."""
    rows, outputs, sources, destinations = values.shape
    flat = values.reshape(rows, outputs, sources * destinations)
    size = np.where(np.isnan(flat), np.inf, np.abs(flat))
    k = min(k, flat.shape[2])
    chosen = np.argpartition(-size, k - 1, axis=2)[:, :, :k]
    order = np.argsort(-np.take_along_axis(size, chosen, axis=2), axis=2, kind="stable")
    chosen = np.take_along_axis(chosen, order, axis=2)
    carried = np.take_along_axis(flat, chosen, axis=2)
    others = flat.copy()
    np.put_along_axis(others, chosen, 0.0, axis=2)
    source, destination = np.divmod(chosen, destinations)
    return source.astype(np.uint32), destination.astype(np.uint32), carried, others.sum(axis=2)


def quotients(e_x: Floats, e_r: Floats, h_x: Floats, h_r: Floats, slope: Floats | None) -> Floats:
    """Slopes [B, S, D] of the edges between their inputs h_r and h_x [B, S]."""
    difference = (h_x - h_r)[:, :, None]
    near = np.abs(difference) <= (NEAREST if slope is None else NEAR) * np.maximum(np.abs(h_r), 1.0)[:, :, None]
    with np.errstate(all="ignore"):
        return np.where(near, 0.0 if slope is None else slope, (e_x - e_r) / np.where(near, 1.0, difference))


def slopes(chosen: Sequence[Part], below: LayerActivations, above: LayerActivations) -> list[Floats | None]:
    """Slopes of the edges of each part, between two rows [1, n] that differ a little in every node. None for a part
    with a step before it that mixes nodes."""
    result: list[Floats | None] = []
    for part, low, high in zip(chosen, below.edges, above.edges, strict=True):
        if any(step.kind in MIXING or step.function in MIXING for step in part.pre_steps):
            result.append(None)
            continue
        distance = read(part, above.nodes) - read(part, below.nodes)
        with np.errstate(all="ignore"):
            result.append(
                np.where(distance == 0, 0.0, 1.0)[:, :, None] * (high - low) / (distance + (distance == 0))[:, :, None]
            )
    return result


def gradients(chosen: Sequence[Part], below: LayerActivations, above: LayerActivations) -> list[Floats]:
    """Slopes [B, S, D] of the edges of each part, between rows [B, n] that differ a little. 0 where the values that
    the edges read are the same in both."""
    result = []
    for part, low, high in zip(chosen, below.edges, above.edges, strict=True):
        distance = (read(part, above.nodes) - read(part, below.nodes))[:, :, None]
        with np.errstate(all="ignore"):
            result.append(np.where(distance == 0, 0.0, (high - low) / np.where(distance == 0, 1.0, distance)))
    return result


MIXING = frozenset({"layernorm", "rmsnorm", "groupnorm", "rowrange", "softmax", "log_softmax", "product"})


def _forth(chain: Sequence[NodeStep], v: Floats) -> list[Floats]:
    """`v`, and the result of each step."""
    values = [v]
    for step in chain:
        values.append(step_rules.evaluate(step, values[-1]))
    return values


def _back(chain: Sequence[NodeStep], x: Floats, r: Floats, multipliers: Floats) -> Floats:
    """Multipliers of the inputs of the chain, from those of its results."""
    values = zip(chain, _forth(chain, x), _forth(chain, r), strict=False)
    for step, v_x, v_r in reversed(list(values)):
        multipliers = step_rules.backpropagate_multipliers(step, v_x, v_r, multipliers)
    return multipliers
