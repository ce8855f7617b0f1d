"""Enclosure of a network on many boxes at once: affine forms of the nodes, and intervals of their slopes.

A node is c + sum_s g_s e_s with e_s in [-1, 1] (a zonotope). The first symbols are the inputs. Each edge is replaced
by a line and the range of what remains; the sum of these ranges, and the float32 error of the sum, are a new symbol
of its destination. An interval beside the form keeps the smaller of both ranges.

Slopes are intervals [inputs, nodes], multiplied layer by layer (the chain rule). They are those of the exact function.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.certify import norms, rounding, steps
from kanexport.certify.edges import ULP, Edges, Table, refuse
from kanexport.certify.nodes import Nodes, product
from kanexport.certify.piece import Piece
from kanexport.ir.model import Kan, Layer
from kanexport.ir.steps import Step

Array = npt.NDArray[np.float64]

DOUBLE = 2.0**-29  # rounding of float64 in units of that of float32


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """Layer with its table and its float32 error [O]; `low` and `high` [I] hold its sources on the whole box."""

    before: tuple[Step, ...]
    table: Table
    slack: Array
    low: Array
    high: Array
    after: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Network with the tables of its layers, for inputs in the box from low to high [n].

    slack  [m]: how far outputs of the served graph may be from those of the exact function
    noise  [m]: the same for the float64 reference
    """

    stages: tuple[Stage, ...]
    low: Array
    high: Array
    slack: Array
    noise: Array

    @classmethod
    def of(cls, kan: Kan, low: Array, high: Array) -> Network:
        """The tables, layer by layer. Raises InvalidKan for a network that has no certificate."""
        nodes, errors = Nodes.of_boxes(low[None], high[None]), np.zeros((2, len(low)))
        stages = []
        for layer in kan.layers:
            stage, nodes, errors = _stage(layer, nodes, errors)
            stages.append(stage)
        return cls(tuple(stages), low, high, errors[0] * (1 + 1e-9), errors[1] * DOUBLE)

    def enclose(self, low: Array, high: Array, *, served: bool = True, slopes: bool = True) -> Nodes:
        """The outputs on boxes from low to high [N, n], within the box of the network. `served`: with the float32
        errors of the graph; without them, the outputs of the exact function. `slopes`: with derivatives."""
        first, rest = self.stages[0], self.stages[1:]
        nodes, pieces = _first_sums(first, Nodes.of_boxes(low, high, slopes=slopes), served)
        outputs = _through(rest, steps.through(first.after, nodes, served), served)
        if not rest:
            return outputs
        # The same with the sums of the first layer as symbols, in which outputs are nearly lines.
        sums = Nodes.of_boxes(nodes.low, nodes.high, slopes=False)
        later = _through(rest, steps.through(first.after, sums, served), served)
        slack = first.slack if served else 0 * first.slack
        return outputs.within(*_by_inputs(sums, later, pieces, first.table.edges.constant, slack))


def _first_sums(stage: Stage, nodes: Nodes, served: bool) -> tuple[Nodes, list[Piece]]:
    nodes = steps.through(stage.before, nodes, served).within(stage.low, stage.high)
    pieces: list[Piece] = []
    nodes = _sums(stage.table, nodes, pieces)
    return (nodes.widened(stage.slack) if served else nodes), pieces


def _through(stages: tuple[Stage, ...], nodes: Nodes, served: bool) -> Nodes:
    """The nodes after some stages."""
    for stage in stages:
        nodes, _ = _first_sums(stage, nodes, served)
        nodes = steps.through(stage.after, nodes, served)
    return nodes


def _by_inputs(sums: Nodes, outputs: Nodes, pieces: list[Piece], constant: Array, slack: Array) -> tuple[Array, Array]:
    """The range of the outputs [N, m] twice, if each is a line in the sums of the first layer, plus a rest. A line of
    sums is a sum of functions of one input each, whose ranges add up without a loss. `sums`: as symbols, the first
    ones of `outputs`; `constant`, `slack` [O]: of the sums."""
    width = sums.center.shape[1]
    at = np.arange(width)
    radius = sums.form[:, at, at][:, :, None]  # [N, O, 1]
    slope = np.where(radius > 0, outputs.form[:, :width] / np.where(radius > 0, radius, 1.0), 0.0)  # [N, O, m]
    start = constant - sums.center
    low = outputs.center + np.einsum("no,nom->nm", start, slope)
    rest = np.abs(outputs.form[:, width:]).sum(axis=1) + np.einsum("o,nom->nm", slack, np.abs(slope))
    reach = np.abs(start) + np.abs(sums.center) + radius[:, :, 0]
    size = np.abs(outputs.center) + np.einsum("no,nom->nm", reach, np.abs(slope)) + rest
    high = low.copy()
    for piece in pieces:
        least, most, bound = piece.combined(slope)
        low, high, size = low + least, high + most, size + bound
    rest = rest + ULP * (width + len(pieces) + outputs.form.shape[1] + 8) * size
    return low - rest, high + rest


def _stage(layer: Layer, nodes: Nodes, errors: Array) -> tuple[Stage, Nodes, Array]:
    """The stage of a layer, and the nodes after it with their errors. `nodes`, `errors` [2, w]: before it, in float32
    and in float64; the latter in units in which rounding is that of float32."""
    layer = norms.separated(layer)
    before, errors = steps.with_errors(layer.pre_steps, nodes, errors)
    low, high = before.low[0], before.high[0]
    if not (np.isfinite(low).all() and np.isfinite(high).all() and np.abs(before.largest).max() < rounding.LARGEST):
        raise refuse("the nodes of a layer may exceed float32 on this box")
    with np.errstate(over="ignore", invalid="ignore"):
        edges = Edges.of(layer)
        table = Table.of(edges, low, high)
        slack = rounding.of_sums(table, low, high)
    if not all(np.isfinite(part).all() for part in (table.value, table.bend, table.low, table.high)):
        raise refuse("an edge has no finite bound on this box")
    steep = np.maximum(np.abs(table.low), np.abs(table.high)).max(axis=0)  # [I, O]
    own = np.stack([slack, rounding.in_double(table) / DOUBLE])
    after, errors = steps.with_errors(layer.post_steps, _sums(table, before, []).widened(slack), errors @ steep + own)
    return Stage(layer.pre_steps, table, slack, low, high, layer.post_steps), after, errors


def _sums(table: Table, nodes: Nodes, pieces: list[Piece]) -> Nodes:
    """The sums of the edges, with the float64 error of this function. Appends the pieces of each source."""
    edges = table.edges
    count, inputs = nodes.down.shape[:2]
    at_low, at_high = edges.values(nodes.low), edges.values(nodes.high)
    reach = np.abs(nodes.center) + np.abs(nodes.form).sum(axis=1) + nodes.largest  # [N, I]
    center = np.broadcast_to(edges.constant, (count, edges.destinations)).copy()
    lines = np.zeros((count, edges.sources, edges.destinations))
    size, radius, low, high = np.abs(center), np.zeros_like(center), center.copy(), center.copy()
    down, up, steep = (np.zeros((count, inputs, edges.destinations)) for _ in range(3))
    for i in range(edges.sources):
        piece = Piece.of(table, i, (nodes.low[:, i], nodes.high[:, i]), (at_low[:, i], at_high[:, i]))
        pieces.append(piece)
        least, most = piece.rest(np.zeros_like(center))
        slope, rest_low, rest_high = piece.line()
        center += slope * (nodes.center[:, i] - piece.middle)[:, None] + (rest_low + rest_high) / 2
        lines[:, i] = slope
        radius += (rest_high - rest_low) / 2
        bound = np.maximum(np.abs(least), np.abs(most)) + np.maximum(np.abs(rest_low), np.abs(rest_high))
        size += 2 * np.abs(slope) * reach[:, i, None] + 2 * bound
        low, high = low + least, high + most
        a, b = product(nodes.down[:, :, i, None], nodes.up[:, :, i, None], piece.down[:, None], piece.up[:, None])
        down, up, steep = down + a, up + b, steep + np.maximum(np.abs(a), np.abs(b))
    noise = ULP * (edges.sources + 8) * size
    slack = ULP * (edges.sources + 8) * steep
    low, high = low - noise, high + noise
    summed = Nodes(center, nodes.form @ lines, low, high, down - slack, up + slack).widened(radius + noise)
    # The interval has no need of the symbol, because it holds all values without it.
    summed = dataclasses.replace(summed, low=low, high=high)
    return summed.within(*summed.summed())
