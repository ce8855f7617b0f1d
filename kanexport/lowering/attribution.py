"""Attribution graph: the contribution of each input to each output against one reference row, as operators after the
edges of all layers.

The method is the reference-difference propagation of `kanserve explain`
(`docs/explanation/contributions-vs-shap.md`): the difference of an edge belongs to its source, and multipliers
(differences of outputs divided by differences of nodes) are chained from the outputs back. It supports networks of
class A whose steps act on each node separately, or multiply nodes. The reference, and all slopes there, are constants.
Float64 reference: `verify/attribution.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.graph.builder import Graph, Value
from kanexport.ir.model import Layer
from kanexport.ir.scaling import Standardize
from kanexport.ir.steps import Affine, Clip, Elementwise, PRelu, Product, Select, Step, Swish
from kanexport.shared.sections import CONTRIBUTIONS

Array = npt.NDArray[np.float64]

EACH = (Elementwise, Clip, PRelu, Swish)  # of every node by itself
# Share of a node's magnitude below which a difference counts as none: a quotient of such would be rounding.
NEAR = {"float32": 1e-4, "float64": 1e-7}


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """Layer at the reference.

    nodes   [n], its inputs
    edges   [I, O], the values of its edges
    slopes  [I, O], the slopes of its edges
    chain   the sums of its edges, and the result of each step after them
    steep   the slope of each such step, for each node, where it has one
    """

    layer: Layer
    nodes: Array
    edges: Array
    slopes: Array
    chain: tuple[Array, ...]
    steep: tuple[Array, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """Network at its reference: the `row` [n], its output `base` [m], its layers."""

    row: Array
    base: Array
    links: tuple[Link, ...]


def columns(layer: Layer, width: int) -> npt.NDArray[np.intp]:
    """[I]: the number of the node that each source reads, regardless of steps on its value."""
    nodes = np.arange(width)
    for step in layer.pre_steps:
        if isinstance(step, Select):
            nodes = nodes[list(step.indices)]
    return nodes


def near(reference: Array, dtype: str) -> Array:
    """The largest difference from the reference that counts as none."""
    return NEAR[dtype] * np.maximum(np.abs(reference), 1.0)


def partners(groups: Sequence[int]) -> list[list[int]]:
    """The other factors in the group of each factor, by number: as many lists as the largest group has others, with
    -1 for none. Example: groups (2, 1) give [[1, 0, -1]]."""
    table = [[-1] * sum(groups) for _ in range(max(groups) - 1)]
    start = 0
    for size in groups:
        for at in range(size):
            for other in range(1, size):
                table[other - 1][start + at] = start + (at + other) % size
        start += size
    return table


def points(groups: Sequence[int]) -> tuple[list[float], list[float]]:
    """Gauss points on the line from the reference to a row, and their weights. With them, the mean of a product of
    the other factors is exact."""
    places, weights = np.polynomial.legendre.leggauss(max(groups) // 2 + 1)
    return ((places + 1) / 2).tolist(), (weights / 2).tolist()


def contributions_graph(anchor: Anchor, names: Sequence[str], dtype: str) -> bytes:
    """Graph from the edges of every layer [B, I, O], with the names `names`, to CONTRIBUTIONS [B, inputs, outputs]."""
    g = Graph(CONTRIBUTIONS, dtype)
    edges = [g.input(name, *link.edges.shape) for name, link in zip(names, anchor.links, strict=True)]
    chains = []  # of each layer, the sums of the edges [B, O] and the result of each step after them
    for link, values in zip(anchor.links, edges, strict=True):
        chain = [g.add(g.sum(values, axis=1), g.const(link.layer.bias[None]))]
        for step in link.layer.post_steps:
            chain.append(step.emit(g, chain[-1]))
        chains.append(chain)
    multipliers = g.const(np.eye(len(anchor.base))[None])
    for at in reversed(range(len(anchor.links))):
        link, chain = anchor.links[at], chains[at]
        for index in reversed(range(len(link.layer.post_steps))):
            multipliers = _pulled(g, link, index, chain, multipliers)
        if at:  # [B, O, D] of the sums of the layer -> [B, O, n] of its nodes
            sources = columns(link.layer, len(link.nodes))
            nodes = g.gather(chains[at - 1][-1], sources, axis=1)
            pair = _difference(g, nodes, link.nodes[sources])
            difference, is_near = (g.reshape(value, 0, len(sources), 1) for value in pair)
            rates = g.op("Div", g.sub(edges[at], g.const(link.edges[None])), difference)
            rates = g.transpose(g.op("Where", is_near, g.const(link.slopes[None]), rates), 0, 2, 1)
            multipliers = _to_nodes(g, link.layer, len(link.nodes), g.op("MatMul", multipliers, rates))
    first = anchor.links[0]
    difference = g.transpose(g.sub(edges[0], g.const(first.edges[None])), 0, 2, 1)
    by_node = _to_nodes(g, first.layer, len(anchor.row), g.op("MatMul", multipliers, difference))
    return g.build({CONTRIBUTIONS: (g.transpose(by_node, 0, 2, 1), (len(anchor.row), len(anchor.base)))})


def _pulled(g: Graph, link: Link, index: int, chain: Sequence[Value], multipliers: Value) -> Value:
    """[B, O, m] of the result of a step -> [B, O, n] of its input."""
    step = link.layer.post_steps[index]
    v, w = chain[index], chain[index + 1]
    v_r, w_r = link.chain[index], link.chain[index + 1]
    if isinstance(step, Affine):
        return g.mul(multipliers, g.const(step.scale[None, None]))
    if isinstance(step, Select):
        return _scattered(g, np.array(step.indices), len(v_r), multipliers)
    if isinstance(step, Product):
        if max(step.groups) == 1:
            return multipliers
        own = [at for at, size in enumerate(step.groups) for _ in range(size)]
        return g.mul(g.gather(multipliers, own, axis=2), g.reshape(_others(g, step, v, v_r), 0, 1, len(v_r)))
    difference, is_near = _difference(g, v, v_r)
    rates = g.op("Div", g.sub(w, g.const(w_r[None])), difference)
    rates = g.op("Where", is_near, g.const(link.steep[index][None]), rates)
    return g.mul(multipliers, g.reshape(rates, 0, 1, len(v_r)))


def _difference(g: Graph, v: Value, reference: Array) -> tuple[Value, Value]:
    """values - reference [B, n], with 1 where the difference is negligible, and the mask of those entries."""
    difference = g.sub(v, g.const(reference[None]))
    hardly = g.op("LessOrEqual", g.op("Abs", difference), g.const(near(reference, g.dtype.name)[None]))
    return g.op("Where", hardly, g.const(1.0), difference), hardly


def _others(g: Graph, step: Product, v: Value, v_r: Array) -> Value:
    """[B, n]: for each factor the product of the others, as its mean on the line from the reference to the row."""
    lists = partners(step.groups)
    total: Value | None = None
    for place, weight in zip(*points(step.groups), strict=True):
        between = g.add(g.mul(v, g.const(place)), g.const((1 - place) * v_r[None]))
        padded = g.op("Pad", between, g.index([0, 0, 0, 1]), g.const(1.0))
        product = g.const(weight)
        for others in lists:
            product = g.mul(product, g.gather(padded, [at % (len(v_r) + 1) for at in others], axis=1))
        total = product if total is None else g.add(total, product)
    assert total is not None
    return total


def _to_nodes(g: Graph, layer: Layer, width: int, multipliers: Value) -> Value:
    """[B, O, I] of the sources of a layer -> [B, O, n] of its nodes."""
    sources = columns(layer, width)
    if np.array_equal(sources, np.arange(width)):
        return multipliers
    return _scattered(g, sources, width, multipliers)


def _scattered(g: Graph, places: npt.NDArray[np.intp], width: int, multipliers: Value) -> Value:
    """[B, O, m] added up at its places, [B, O, n]."""
    return g.op("MatMul", multipliers, g.const(np.eye(width)[places][None]))


def allowed(step: Step) -> bool:
    """Whether a step has a rule in this module."""
    return isinstance(step, (Affine, Standardize, Select, Product, *EACH))
