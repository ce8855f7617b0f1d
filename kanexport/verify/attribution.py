"""Float64 reference of contributions with respect to a reference row, as `lowering/attribution.py` emits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kanexport.ir import scaling
from kanexport.ir.model import Kan, Layer
from kanexport.ir.steps import Step
from kanexport.lowering.attribution import EACH, Anchor, Link, allowed, columns, near
from kanexport.lowering.lower import Explained, Lowered
from kanexport.shared import step_rules
from kanexport.shared.sections import CONTRIBUTIONS, EDGES, NODES
from kanexport.verify import float64_reference
from kanexport.verify.float64_reference import Jitter, Trace
from kanexport.verify.prover import Draws, Prover, Rows, Shapes, Subject, ZoneErrors, require_shapes
from kanexport.verify.test_points import EDGE_BUDGET
from kanexport.verify.tolerances import OVERFLOW

Array = npt.NDArray[np.float64]

REACH = 1e-5  # of a node's magnitude: what a slope looks to either side


class NoContributions(ValueError):
    """Network or reference without contributions; the text is the reason."""


def anchor(kan: Kan, row: Array) -> Anchor:
    """A network at a reference row [n]. Raises NoContributions."""
    for at, layer in enumerate(kan.layers):
        _check(at, layer)
    trace = float64_reference.evaluate(kan, row[None])
    links = tuple(_link(layer, nodes[0]) for layer, nodes in zip(kan.layers, trace.inputs, strict=True))
    numbers = [trace.y, *(part for link in links for part in (link.slopes, link.edges, *link.steep, *link.chain))]
    if not all(np.isfinite(part).all() for part in numbers):
        raise NoContributions("the mean of the reference gives outputs that are not finite")
    return Anchor(row, trace.y[0], links)


def _check(at: int, layer: Layer) -> None:
    if layer.mixes:
        raise NoContributions(f"the edges of layer {at} depend on the whole row (class B)")
    for step in (*layer.pre_steps, *layer.post_steps):
        if not allowed(step):
            what = step.describe()
            raise NoContributions(f"layer {at} has the step {what.function or what.kind!r:.80}")


def _link(layer: Layer, nodes: Array) -> Link:
    chain = [_edges(layer, nodes[None]).sum(axis=1) + layer.bias]
    with np.errstate(all="ignore"):
        for step in layer.post_steps:
            chain.append(step.evaluate(chain[-1]))
        steep = tuple(_steep(step, v[0]) for step, v in zip(layer.post_steps, chain, strict=False))
        reach = REACH * np.maximum(np.abs(nodes), 1.0)
        differences = (2 * reach)[columns(layer, len(nodes)), None]
        slopes = (_edges(layer, (nodes + reach)[None]) - _edges(layer, (nodes - reach)[None]))[0] / differences
    return Link(layer, nodes, _edges(layer, nodes[None])[0], slopes, tuple(v[0] for v in chain), steep)


def _edges(layer: Layer, nodes: Array, jitter: Jitter | None = None) -> Array:
    """[B, n] -> [B, I, O]"""
    return np.concatenate([values for _, values, _ in float64_reference.edges(layer, nodes, jitter)])


def _steep(step: Step, v: Array) -> Array:
    """[n]: the slope of an elementwise step; zeros for another step."""
    if not isinstance(step, EACH):
        return np.zeros(len(v))
    reach = REACH * np.maximum(np.abs(v), 1.0)
    high, low = (step.evaluate((v + side)[None])[0] for side in (reach, -reach))
    return np.asarray((high - low) / (2 * reach))


def contributions(anchor: Anchor, trace: Trace, dtype: str, jitter: Jitter | None = None) -> tuple[Array, Array]:
    """Contributions [B, inputs, outputs] for the rows of a batch, and the largest finite magnitude of each row, [B].

    dtype   the graph's, which decides what is near the reference
    jitter  the rounding of an implementation to simulate, or None
    """
    peaks = [trace.peak]
    with np.errstate(all="ignore"):
        multipliers = np.tile(np.eye(len(anchor.base)), (len(trace.y), 1, 1))
        for at in reversed(range(len(anchor.links))):
            link, nodes = anchor.links[at], trace.inputs[at]
            edges = _edges(link.layer, nodes, jitter)
            multipliers = _back(link, edges, dtype, multipliers)
            difference = edges - link.edges
            sources = columns(link.layer, len(link.nodes))
            if at:
                differences = (nodes - link.nodes)[:, sources, None]
                hardly = np.abs(differences) <= near(link.nodes, dtype)[sources, None]
                difference = np.where(hardly, link.slopes, difference / np.where(hardly, 1.0, differences))
            by_source = np.einsum("bod,bid->boi", multipliers, difference)
            peaks += [
                float64_reference.peak(difference),
                float64_reference.peak(multipliers),
                float64_reference.peak(by_source),
            ]
            multipliers = np.zeros((*by_source.shape[:2], len(link.nodes)))
            for source, column in enumerate(sources):
                multipliers[:, :, column] += by_source[:, :, source]
    return multipliers.transpose(0, 2, 1), np.max(peaks, axis=0)


def _back(link: Link, edges: Array, dtype: str, multipliers: Array) -> Array:
    """[B, O, m] of the results of a layer -> [B, O, D] of the sums of its edges."""
    chain = [edges.sum(axis=1) + link.layer.bias]
    for step in link.layer.post_steps:
        chain.append(step.evaluate(chain[-1]))
    for at in reversed(range(len(link.layer.post_steps))):
        step, v, v_r = link.layer.post_steps[at], chain[at], link.chain[at]
        if isinstance(step, EACH):
            hardly = np.abs(v - v_r) <= near(v_r, dtype)
            rates = (chain[at + 1] - link.chain[at + 1]) / np.where(hardly, 1.0, v - v_r)
            multipliers = multipliers * np.where(hardly, link.steep[at], rates)[:, None]
        else:
            reference = np.broadcast_to(v_r, v.shape)
            multipliers = step_rules.backpropagate_multipliers(step.describe(), v, reference, multipliers)
    return multipliers


class ExplainedProver(Prover):
    """Prover of a graph that returns edges with its outputs. `rows`: the largest number of rows per run, because the
    edges of all of them are in memory at a time."""

    def __init__(self, subject: Subject, lowered: Lowered, explained: Explained, dtype: str, tolerance: float) -> None:
        super().__init__(subject, dataclasses.replace(lowered, model=explained.graph, edges=()), dtype, tolerance)
        tensors, self._anchor = explained.about.tensors, explained.anchor
        self._shapes_of = {tensor.name: tensor.shape[1:] for tensor in tensors}
        self._nodes = [tensor for tensor in tensors if tensor.holds == NODES]
        self._edges_of = [tensor for tensor in tensors if tensor.holds == EDGES]
        numbers = sum(int(np.prod(tensor.shape[1:])) for tensor in self._edges_of)
        if self._anchor is not None:  # which takes the edges of all layers
            numbers = max(numbers, sum(layer.mask.size for layer in subject.layers))
        self.rows = max(2, EDGE_BUDGET // max(1, numbers))

    def zone(self, name: str, x: Array) -> None:
        """All outputs of the graph for rows x [B, ...]. If there are too many rows, an even selection."""
        x = self.fewer(x)
        errors, trace, outputs, keep, shaken = self.outputs(name, x)
        require_shapes(self.shapes(outputs, x[:1], len(x)), len(x))
        for tensor in self._nodes:
            self.nodes(errors, tensor.name, tensor.layer, outputs[tensor.name], trace, keep, shaken)
        if self._anchor is not None:
            self.compare_contributions(errors, x, trace, outputs, keep, shaken)
        for tensor in self._edges_of:
            at = tensor.layer
            nodes = outputs[self.lowered.node_tensors[at]]
            self.layer(errors, at, nodes, trace.inputs[at], keep, shaken, outputs[tensor.name])

    def fewer(self, x: Array) -> Array:
        """The rows, or an even selection of as many as run at a time."""
        return x if len(x) <= self.rows else x[np.linspace(0, len(x) - 1, self.rows).round().astype(int)]

    def compare_contributions(
        self, errors: ZoneErrors, x: Array, trace: Trace, outputs: dict[str, Array], keep: Rows, shaken: Draws
    ) -> None:
        """Compare the contributions of finite rows with finite outputs, each by itself, and their sums per row."""
        assert self._anchor is not None
        anchor = self._anchor
        rows = keep & np.isfinite(x).all(axis=1) & np.isfinite(trace.y).all(axis=1)
        rows[rows] = contributions(anchor, _only(trace, rows), self.dtype.name)[1] < OVERFLOW
        restore = scaling.restore(self.subject.layers)
        unit = 1.0 if restore is None else restore.scale  # of each output
        computed = outputs[CONTRIBUTIONS][rows] / unit

        def exact(trace: Trace, jitter: Jitter | None = None) -> Array:
            return contributions(anchor, _only(trace, rows), self.dtype.name, jitter)[0] / unit

        def outputs_of(trace: Trace) -> Array:
            return trace.y[rows] if restore is None else restore.in_network_units(trace.y[rows])

        def changes() -> Iterator[Array]:
            return (exact(draw(), jitter) for draw, jitter in zip(shaken, self.tolerance.jitters, strict=True))

        expected = exact(trace)
        allowance = self.allow(CONTRIBUTIONS, self.tolerance.edges, expected, changes)
        errors.outputs.add(computed, expected, allowance, lambda at: f"{CONTRIBUTIONS}[{at[1]},{at[2]}]")
        base = anchor.base if restore is None else restore.in_network_units(anchor.base)
        sums, y = computed.sum(axis=1) + base, outputs_of(trace)
        whole = self.allow("outputs", self.tolerance.edges, y, lambda: [outputs_of(draw()) for draw in shaken])
        errors.outputs.add(sums, y, whole, lambda at: f"the sum of {CONTRIBUTIONS} to {at[1]}")

    def shapes(self, outputs: dict[str, Array], row: Array, count: int) -> Shapes:
        """See `Prover.shapes`: the shapes that the description of the graph has."""
        return {
            name: (outputs[name].shape if name in outputs else "(missing)", (count, *shape))
            for name, shape in self._shapes_of.items()
        }


def _only(trace: Trace, rows: Rows) -> Trace:
    return Trace(trace.y[rows], tuple(nodes[rows] for nodes in trace.inputs), trace.peak[rows])
