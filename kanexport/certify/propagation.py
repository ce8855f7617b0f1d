"""Propagation of bounds through a network, on many boxes at once: affine forms of the nodes, intervals of slopes.

A node is c + sum_s g_s e_s with e_s in [-1, 1] (a zonotope). The first symbols are the inputs. Each edge is replaced
by a line and the range of what remains; the sum of these ranges, and the float32 error of the sum, are a new symbol
of its destination. An interval beside the form keeps the smaller of both ranges.

Slopes are intervals [inputs, nodes], multiplied layer by layer (the chain rule). They are those of the exact function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.certify import norms, rounding, steps
from kanexport.certify.edges import MARGIN, ULP, Edges, Table, refuse
from kanexport.certify.nodes import Nodes, product
from kanexport.ir.model import Kan
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
        # `errors` [2, w]: in float32 and in float64, the latter in units in which rounding is that of float32.
        nodes, errors = Nodes.of_boxes(low[None], high[None]), np.zeros((2, len(low)))
        stages = []
        for layer in map(norms.separated, kan.layers):
            nodes, errors = steps.with_errors(layer.pre_steps, nodes, errors)
            start, end = nodes.low[0], nodes.high[0]
            finite = np.isfinite(start).all() and np.isfinite(end).all()
            if not (finite and np.abs(nodes.largest).max() < rounding.LARGEST):
                raise refuse("the nodes of a layer may exceed float32 on this box")
            with np.errstate(over="ignore", invalid="ignore"):
                table = Table.of(Edges.of(layer), start, end)
                slack = rounding.of_sums(table, start, end)
            if not all(np.isfinite(part).all() for part in (table.value, table.bend, table.low, table.high)):
                raise refuse("an edge has no finite bound on this box")
            stages.append(Stage(layer.pre_steps, table, slack, start, end, layer.post_steps))
            steep = np.maximum(np.abs(table.low), np.abs(table.high)).max(axis=0)  # [I, O]
            errors = errors @ steep + np.stack([slack, rounding.in_double(table) / DOUBLE])
            nodes, errors = steps.with_errors(layer.post_steps, _sums(table, nodes, []).widened(slack), errors)
        return cls(tuple(stages), low, high, errors[0] * (1 + 1e-9), errors[1] * DOUBLE)

    def enclose(self, low: Array, high: Array, *, served: bool = True, slopes: bool = True) -> Nodes:
        """The outputs on boxes from low to high [N, n], within the box of the network. `served`: with the float32
        errors of the graph; without them, the outputs of the exact function. `slopes`: with derivatives."""
        first, rest = self.stages[0], self.stages[1:]
        nodes, relaxations = _first_sums(first, Nodes.of_boxes(low, high, slopes=slopes), served)
        outputs = _through(rest, steps.through(first.after, nodes, served), served)
        if not rest:
            return outputs
        # The same with the sums of the first layer as symbols, in which outputs are nearly lines.
        sums = Nodes.of_boxes(nodes.low, nodes.high, slopes=False)
        later = _through(rest, steps.through(first.after, sums, served), served)
        slack = first.slack if served else 0 * first.slack
        return outputs.within(*_by_inputs(sums, later, relaxations, first.table.edges.constant, slack))


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """Linear relaxation of the edges of a source to O destinations, on an interval in each of N boxes: lines near them,
    and the ranges of the rest and of the slopes.

    middle     [N]: of the interval
    x, value   [N, P] and [N, P, O]: points of the interval and the edges there; the first two are its ends
    bend       [N, P, O]: how far an edge may leave the chords beside a point
    down, up   [N, O]: enclosure of the slope
    rounding   [O]: of the values
    """

    middle: Array
    x: Array
    value: Array
    bend: Array
    down: Array
    up: Array
    rounding: Array

    @classmethod
    def of(cls, table: Table, source: int, interval: tuple[Array, Array], ends: tuple[Array, Array]) -> Relaxation:
        """The edges of a source on an interval [N] twice, with their values [N, O] at its ends."""
        low, high = interval
        x, value, bend = table.x[:, source], table.value[:, source], table.bend[:, source]
        reach, spread = table.reach[:, source], table.high[:, source] - table.low[:, source]  # [cells, O]
        # The cells of both ends, and the points between the ends. There are up to `most` of these; the lower end takes
        # the place of those that an interval does not have.
        cells = len(x) - 1
        first = np.clip(np.searchsorted(x, low, side="right") - 1, 0, cells - 1)
        last = np.clip(np.searchsorted(x, high, side="left") - 1, first, cells - 1)
        most = int((last - first).max(initial=0))
        inner = first[:, None] + 1 + np.arange(most)
        inside = inner <= last[:, None]
        inner = np.minimum(inner, cells)

        # A chord that begins at an end is at most as long as its cell, and as the interval.
        width = (high - low)[:, None]
        bend_at_ends = np.stack(
            [
                np.minimum(np.minimum(reach[cell], spread[cell] / 4 * width * MARGIN), bend[cell] * width**2)
                for cell in (first, last)
            ],
            axis=1,
        )
        # A point has a chord on both sides.
        beside = np.maximum(np.pad(reach, ((1, 0), (0, 0))), np.pad(reach, ((0, 1), (0, 0))))

        def joined(at_ends: Array, at_points: Array) -> Array:
            mask = inside.reshape(inside.shape + (1,) * (at_points.ndim - 2))
            return np.concatenate([at_ends, np.where(mask, at_points, at_ends[:, :1])], axis=1)

        touched = np.minimum(first[:, None] + np.arange(most + 1), last[:, None])  # the cells of an interval
        return cls(
            (low + high) / 2,
            joined(np.stack([low, high], axis=1), x[inner]),
            joined(np.stack(ends, axis=1), value[inner]),
            joined(bend_at_ends, beside[inner]),
            table.low[:, source][touched].min(axis=1),
            table.high[:, source][touched].max(axis=1),
            table.rounding[source],
        )

    def rest(self, slope: Array) -> tuple[Array, Array]:
        """The range of edge - slope * (x - middle), [N, O] twice, for slopes [N, O]."""
        distance = (self.x - self.middle[:, None])[:, :, None]
        rest = self.value - slope[:, None] * distance
        far = np.abs(distance).max(axis=1)
        edge = self.rounding + 4 * ULP * (
            np.abs(slope) * (far + np.abs(self.middle[:, None])) + np.abs(rest).max(axis=1)
        )
        return (rest - self.bend).min(axis=1) - edge, (rest + self.bend).max(axis=1) + edge

    def combined(self, slope: Array) -> tuple[Array, Array, Array]:
        """The range [N, m] twice of sums of the edges with weights [N, O, m], and a bound of their magnitude."""
        size = np.abs(slope)
        values, bends = self.value @ slope, self.bend @ size  # [N, P, m]
        edge = np.einsum("o,nom->nm", self.rounding, size)
        bound = (np.abs(self.value).max(axis=1)[:, None] @ size)[:, 0] * self.value.shape[2] + bends.max(axis=1)
        return (values - bends).min(axis=1) - edge, (values + bends).max(axis=1) + edge, bound

    def line(self) -> tuple[Array, Array, Array]:
        """The slope [N, O] of the better one of two lines, through the ends and by least squares, and the range of
        what remains."""
        width = (self.x[:, 1] - self.x[:, 0])[:, None]
        chord = (self.value[:, 1] - self.value[:, 0]) / np.where(width > 0, width, 1.0)
        x = self.x - self.x.mean(axis=1, keepdims=True)
        spread = (x**2).sum(axis=1)[:, None]
        fitted = np.einsum("np,npo->no", x, self.value) / np.where(spread > 0, spread, 1.0)
        # Points that are nearly equal make no line.
        narrow = width <= 1e-9 * (1 + np.abs(self.middle[:, None]))
        options = [np.where(narrow, 0.0, slope) for slope in (chord, fitted)]
        ranges = [self.rest(slope) for slope in options]
        better = (ranges[1][1] - ranges[1][0]) < (ranges[0][1] - ranges[0][0])
        return (
            np.where(better, options[1], options[0]),
            np.where(better, ranges[1][0], ranges[0][0]),
            np.where(better, ranges[1][1], ranges[0][1]),
        )


def _first_sums(stage: Stage, nodes: Nodes, served: bool) -> tuple[Nodes, list[Relaxation]]:
    nodes = steps.through(stage.before, nodes, served).within(stage.low, stage.high)
    relaxations: list[Relaxation] = []
    nodes = _sums(stage.table, nodes, relaxations)
    return (nodes.widened(stage.slack) if served else nodes), relaxations


def _through(stages: tuple[Stage, ...], nodes: Nodes, served: bool) -> Nodes:
    """The nodes after some stages."""
    for stage in stages:
        nodes, _ = _first_sums(stage, nodes, served)
        nodes = steps.through(stage.after, nodes, served)
    return nodes


def _by_inputs(
    sums: Nodes, outputs: Nodes, relaxations: list[Relaxation], constant: Array, slack: Array
) -> tuple[Array, Array]:
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
    for relaxation in relaxations:
        least, most, bound = relaxation.combined(slope)
        low, high, size = low + least, high + most, size + bound
    rest = rest + ULP * (width + len(relaxations) + outputs.form.shape[1] + 8) * size
    return low - rest, high + rest


def _sums(table: Table, nodes: Nodes, relaxations: list[Relaxation]) -> Nodes:
    """The sums of the edges, with the float64 error of this function. Appends the relaxations of each source."""
    edges = table.edges
    count, inputs = nodes.down.shape[:2]
    at_low, at_high = edges.values(nodes.low), edges.values(nodes.high)
    reach = np.abs(nodes.center) + np.abs(nodes.form).sum(axis=1) + nodes.largest  # [N, I]
    center = np.broadcast_to(edges.constant, (count, edges.destinations)).copy()
    lines = np.zeros((count, edges.sources, edges.destinations))
    size, radius, low, high = np.abs(center), np.zeros_like(center), center.copy(), center.copy()
    down, up, steep = (np.zeros((count, inputs, edges.destinations)) for _ in range(3))
    for i in range(edges.sources):
        relaxation = Relaxation.of(table, i, (nodes.low[:, i], nodes.high[:, i]), (at_low[:, i], at_high[:, i]))
        relaxations.append(relaxation)
        least, most = relaxation.rest(np.zeros_like(center))
        slope, rest_low, rest_high = relaxation.line()
        center += slope * (nodes.center[:, i] - relaxation.middle)[:, None] + (rest_low + rest_high) / 2
        lines[:, i] = slope
        radius += (rest_high - rest_low) / 2
        bound = np.maximum(np.abs(least), np.abs(most)) + np.maximum(np.abs(rest_low), np.abs(rest_high))
        size += 2 * np.abs(slope) * reach[:, i, None] + 2 * bound
        low, high = low + least, high + most
        a, b = product(
            nodes.down[:, :, i, None], nodes.up[:, :, i, None], relaxation.down[:, None], relaxation.up[:, None]
        )
        down, up, steep = down + a, up + b, steep + np.maximum(np.abs(a), np.abs(b))
    noise = ULP * (edges.sources + 8) * size
    slack = ULP * (edges.sources + 8) * steep
    sums = Nodes(center, nodes.form @ lines, low - noise, high + noise, down - slack, up + slack)
    return sums.with_rest(radius + noise)
