"""What each input of a row has to do with an answer: the difference from a reference's answer, given to the inputs.

Reference-difference propagation ("rescale", Shrikumar et al. 2017, DeepLIFT), for which a KAN is made: the value of an
edge depends on its source alone, so that the difference phi(x) - phi(r) falls to that source wholly, whatever phi is.
Over the edges of a layer the differences add up to the node's, over the layers multipliers are chained, and the
contributions of the inputs add up to f(x) - f(r). Between layers the rules of `steps` hold.

Shapes: B rows, O outputs, n nodes that a layer is given, S sources, D destinations, m results of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.contract.manifest import LayerInfo, NodeStep
from kanserve.analysis import step_rules

Floats = NDArray[np.float64]
# Of a node's magnitude: x is the reference. Edges are known to a float32's precision, so that the slope there, where it
# is known, says more than a quotient; where it is not, the quotient loses nothing but its meaning.
NEAR, NEAREST = 1e-4, 1e-9


class NoParts(ValueError):
    """The edge values of a layer are known in total only, where the parts of its bases are needed."""


@dataclass(frozen=True, slots=True)
class Part:
    """The bases of a layer that read the same: `pre_steps`, the steps between the layer's nodes and what they read;
    `tensors`: whose values of the edge graph they are, () for all that are in no other part."""

    pre_steps: tuple[NodeStep, ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerActivations:
    """A layer at some rows: its `nodes` [B, n], and the values of its edges [B, S, D], those of each part."""

    nodes: Floats
    edges: tuple[Floats, ...]

    def sums(self, layer: LayerInfo) -> Floats:
        """[B, D]: the sums of its edges, and the bias."""
        total = sum((edges.sum(axis=1) for edges in self.edges), np.zeros(()))
        return np.asarray(total + np.array(layer.bias) if layer.bias else total)


def parts(layer: LayerInfo) -> tuple[Part, ...]:
    """Raises NoParts for a layer whose bases read different things, if it is not told which part is whose."""
    apart = [basis for basis in layer.bases if basis.pre_steps]
    if not apart:
        return (Part(layer.pre_steps, ()),)
    if len(layer.bases) == 1 and not layer.symbolic:
        return (Part((*layer.pre_steps, *apart[0].pre_steps), ()),)
    if not any(basis.edges_tensor for basis in layer.bases):
        raise NoParts
    own = [Part((*layer.pre_steps, *basis.pre_steps), (basis.edges_tensor,)) for basis in apart if basis.edges_tensor]
    return (*own, Part(layer.pre_steps, ()))


def divided(chosen: Sequence[Part], total: Floats, tensors: Mapping[str, Floats]) -> tuple[Floats, ...]:
    """[N, S, D] of each part: the outputs of the edge graph, of which `total` is all."""
    named = [sum((tensors[name] for name in part.tensors), np.zeros(())) for part in chosen]
    rest = total - sum((values for part, values in zip(chosen, named, strict=True) if part.tensors), np.zeros(()))
    return tuple(values if part.tensors else rest for part, values in zip(chosen, named, strict=True))


def read(part: Part, nodes: Floats) -> Floats:
    """[B, n] -> [B, S]: what the bases of a part read. Raises steps.UnknownStep."""
    return _forth(part.pre_steps, nodes)[-1]


def apply_post_steps(layer: LayerInfo, sums: Floats) -> Floats:
    """[B, D] -> [B, m]: what the layer gives. Raises steps.UnknownStep."""
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
    """[B, O, m] of the layer's results -> [B, O, S, D]: what each edge has of the outputs' differences. Raises
    steps.UnknownStep."""
    multipliers = _back(layer.post_steps, x.sums(layer), r.sums(layer), multipliers)
    apart = sum((e_x - e_r for e_x, e_r in zip(x.edges, r.edges, strict=True)), np.zeros(()))
    return np.asarray(multipliers[:, :, None, :] * apart[:, None])


def strongest(values: Floats, k: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], Floats, Floats]:
    """[B, O, S, D] -> sources, destinations and values [B, O, k] of the edges that carried most, and what all others
    did, [B, O]. NaN counts as most."""
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
    """[B, S, D]: by how much each edge's value grew for a unit of what it reads, from h_r to h_x [B, S]."""
    apart = (h_x - h_r)[:, :, None]
    near = np.abs(apart) <= (NEAREST if slope is None else NEAR) * np.maximum(np.abs(h_r), 1.0)[:, :, None]
    with np.errstate(all="ignore"):
        return np.where(near, 0.0 if slope is None else slope, (e_x - e_r) / np.where(near, 1.0, apart))


def slopes(chosen: Sequence[Part], below: LayerActivations, above: LayerActivations) -> list[Floats | None]:
    """Of each part the slope of its edges between two rows [1, n] that differ a little in every node; None where a
    step before it looks at all nodes at once."""
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
    """Of each part the slope of its edges [B, S, D] over what they read, between rows [B, n] that are a little apart;
    0 where what they read is the same in both."""
    result = []
    for part, low, high in zip(chosen, below.edges, above.edges, strict=True):
        distance = (read(part, above.nodes) - read(part, below.nodes))[:, :, None]
        with np.errstate(all="ignore"):
            result.append(np.where(distance == 0, 0.0, (high - low) / np.where(distance == 0, 1.0, distance)))
    return result


MIXING = frozenset({"layernorm", "rmsnorm", "groupnorm", "rowrange", "softmax", "log_softmax", "product"})


def _forth(chain: Sequence[NodeStep], v: Floats) -> list[Floats]:
    """`v`, and what each step gives."""
    values = [v]
    for step in chain:
        values.append(step_rules.evaluate(step, values[-1]))
    return values


def _back(chain: Sequence[NodeStep], x: Floats, r: Floats, multipliers: Floats) -> Floats:
    """Multipliers of what the chain gives -> of what it takes."""
    values = zip(chain, _forth(chain, x), _forth(chain, r), strict=False)
    for step, v_x, v_r in reversed(list(values)):
        multipliers = step_rules.backpropagate_multipliers(step, v_x, v_r, multipliers)
    return multipliers
