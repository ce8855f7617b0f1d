"""Normalizations and functions of nodes between layers, on nodes of many boxes, with their errors.

A normalization is y = c r with c = x - mean and r = 1 / sqrt(mean c^2 + epsilon). The range of y_i follows from that of
c_i and of the other squares, since y_i rises with c_i, and falls in size with the others. So |y_i| is at most sqrt(n).
Its derivative is r (dc_i - y_i mean(y dc)).

Rounding: with n nodes of at most M, float32 computes c to (2 n + 16) u M, also if it subtracts the mean twice. This
error passes to y as in a first derivative, as long as it is small; otherwise y is still at most sqrt(n).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.certify import families, intervals, taylor
from kanexport.certify.edges import MARGIN, ULP, refusal, refuse
from kanexport.certify.nodes import Nodes, product
from kanexport.certify.operators import Bounds
from kanexport.certify.rounding import UNIT
from kanexport.certify.taylor import Taylor
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.norms import GroupNorm, LayerNorm
from kanexport.ir.steps import Elementwise, PRelu, Swish

Array = npt.NDArray[np.float64]

SMALL = 0.1  # of a deviation: an error from which on its first derivative says nothing
Curved = Elementwise | PRelu | Swish


@dataclass(frozen=True, slots=True)
class Beside(LayerNorm):
    """Step that appends the nodes of a normalization to the nodes that it reads."""


def separated(layer: Layer) -> Layer:
    """A layer without a normalization inside of its terms: its sources are the nodes, and the normalized nodes after
    them. Raises InvalidKan for other steps inside of terms."""
    steps = [step for term in layer.terms for step in term.pre_steps]
    if not steps:
        return layer
    norm, terms = steps[0], []
    single = all(len(term.pre_steps) <= 1 for term in layer.terms)
    shared = all(isinstance(term, BasisTerm) and term.basis.sources is None for term in layer.terms)
    if not (single and shared and type(norm) is LayerNorm and all(_equal(step, norm) for step in steps)):
        raise refuse("a term of a layer has steps that no certificate supports")
    for term in layer.terms:
        empty = np.zeros_like(term.coef)
        halves = (empty, term.coef) if term.pre_steps else (term.coef, empty)
        terms.append(dataclasses.replace(term, coef=np.concatenate(halves), pre_steps=()))
    return dataclasses.replace(
        layer,
        terms=tuple(terms),
        mask=np.tile(layer.mask, (2, 1)),
        nan_spreads=np.tile(layer.nan_spreads, (2, 1)),
        pre_steps=(*layer.pre_steps, Beside(norm.scale, norm.bias, norm.epsilon)),
    )


def _equal(a: object, b: LayerNorm) -> bool:
    return isinstance(a, LayerNorm) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("scale", "bias", "epsilon")
    )


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Ranges of a normalization, [N, w] each: c, r and y, before scale and bias. `mean` [w, w]: the matrix of the mean
    of each group, and `count` its nodes."""

    centred: Nodes
    rate: tuple[Array, Array]
    value: tuple[Array, Array]
    mean: Array
    count: int

    @classmethod
    def of(cls, step: LayerNorm | GroupNorm, nodes: Nodes) -> Parts:
        """The ranges for some nodes. Raises InvalidKan."""
        width = nodes.center.shape[1]
        groups = step.groups if isinstance(step, GroupNorm) else 1
        count = width // groups
        mean = np.kron(np.eye(groups), np.full((count, count), 1 / count))
        centred = _linear(nodes, np.eye(width) - mean)
        low, high = centred.low, centred.high
        least = np.where(low > 0, low, np.where(high < 0, -high, 0.0)) ** 2
        most = centred.largest**2
        variance = (least @ mean) * (1 - 1e-12), (most @ mean) * MARGIN
        if not (variance[0] + step.epsilon > 0).all():
            raise refuse("a normalization without an epsilon may divide by zero on this box")
        rate = (
            1 / np.sqrt(variance[1] + step.epsilon) * (1 - 1e-12),
            1 / np.sqrt(variance[0] + step.epsilon) * (1 + 1e-12),
        )
        others = np.maximum((least @ mean) * count * (1 - 1e-12) - least, 0.0), (most @ mean) * count * MARGIN - most
        ends = [
            c / np.sqrt((c * c + rest) / count + step.epsilon)
            for c, rest in (
                (low, np.where(low >= 0, others[1], others[0])),
                (high, np.where(high >= 0, others[0], others[1])),
            )
        ]
        room = 1e-12 * (1 + np.abs(ends[0]) + np.abs(ends[1]))
        return cls(centred, rate, (ends[0] - room, ends[1] + room), np.asarray(mean, dtype=np.float64), count)

    def passed(self, error: Array) -> Array:
        """[..., w]: what the `error` [..., w] of the nodes becomes, without scale and bias."""
        fast, y = self.rate[1][0], np.maximum(np.abs(self.value[0]), np.abs(self.value[1]))[0]
        before = error @ np.abs(np.eye(len(fast)) - self.mean)
        return np.asarray(fast * (before + y * ((y * before) @ self.mean)))


def normalized(parts: Parts) -> Nodes:
    """The nodes after a normalization without its scale and bias, with the float64 error of this function."""
    centred, (slow, fast), (low, high) = parts.centred, parts.rate, parts.value
    middle, reach = (slow + fast) / 2, (fast - slow) / 2 * MARGIN
    rest = reach * centred.largest
    radius = np.abs(centred.form).sum(axis=1) * middle + rest
    # The interval alone is better than a form with a rate that is hardly known.
    plain = radius > high - low
    center = np.where(plain, (low + high) / 2, centred.center * middle)
    form = np.where(plain[:, None], 0.0, centred.form * middle[:, None])
    rest = np.where(plain, (high - low) / 2, rest)
    # The derivatives of y.
    down, up, y, rate = centred.down, centred.up, (low[:, None], high[:, None]), (slow[:, None], fast[:, None])
    shares = product(*y, down, up)
    turned = product(*y, shares[0] @ parts.mean, shares[1] @ parts.mean)
    down, up = product(down - turned[1], up - turned[0], *rate)
    room = 1e-12 * (np.abs(down) + np.abs(up))
    noise = 16 * ULP * (np.abs(center) + np.abs(form).sum(axis=1) + rest)
    return Nodes(center, form, low, high, down - room, up + room).with_rest(rest + noise)


def _linear(nodes: Nodes, matrix: Array) -> Nodes:
    """The nodes times a matrix [w, w], with the float64 error of the product."""
    above, below = np.maximum(matrix, 0), np.minimum(matrix, 0)
    noise = ULP * (len(matrix) + 8) * (nodes.size @ np.abs(matrix))
    steep = np.maximum(np.abs(nodes.down), np.abs(nodes.up))
    slack = ULP * (len(matrix) + 8) * (steep @ np.abs(matrix))
    low, high = nodes.low @ above + nodes.high @ below - noise, nodes.high @ above + nodes.low @ below + noise
    down, up = nodes.down @ above + nodes.up @ below - slack, nodes.up @ above + nodes.down @ below + slack
    return Nodes(nodes.center @ matrix, nodes.form @ matrix, low, high, down, up).with_rest(noise)


def rounding_of_norm(parts: Parts, nodes: Nodes) -> Array:
    """[N, w]: the float32 error of a normalization without its scale and bias; see the text of the module."""
    largest = nodes.largest @ (parts.mean > 0)  # no less than the largest of the group
    largest = np.minimum(largest, nodes.largest.max(axis=1, keepdims=True))
    y = np.maximum(np.abs(parts.value[0]), np.abs(parts.value[1]))
    relative = (2 * parts.count + 16) * UNIT * largest * parts.rate[1]
    first = 4 * (relative + y * (relative + relative**2 + (parts.count + 10) * UNIT))
    return np.asarray(np.where(relative < SMALL, first, np.maximum(first, 2 * np.sqrt(parts.count) + 1)))


def curved(step: Curved, nodes: Nodes) -> Nodes:
    """The nodes after a function of each: a line from end to end, and how far the function leaves it. Raises
    InvalidKan."""
    enclosed = _enclosed(step, nodes.low, nodes.high)
    (value, slope, second), error = enclosed.coefs, enclosed.error
    if not all(np.isfinite(part).all() for part in (*value, *slope)):
        raise refuse(f"{_without_bound(step)} on this box")
    h = nodes.high - nodes.low
    first, last = step.evaluate(nodes.low), step.evaluate(nodes.high)
    chord = np.where(h > 0, (last - first) / np.where(h > 0, h, 1.0), 0.0)
    chord = np.clip(chord, *slope)
    with np.errstate(invalid="ignore"):
        bend = intervals.largest(second) * 2 / 8 * h**2
    apart = np.fmin(bend, (slope[1] - slope[0]) / 4 * h) * MARGIN + np.abs(last - first - chord * h)
    noise = 4 * error + 16 * ULP * (np.abs(first) + np.abs(last) + np.abs(chord) * nodes.size)
    form = nodes.form * chord[:, None]
    down, up = product(nodes.down, nodes.up, slope[0][:, None], slope[1][:, None])
    room = 4 * ULP * np.maximum(np.abs(down), np.abs(up))
    center = first + chord * (nodes.center - nodes.low)
    return Nodes(center, form, *value, down - room, up + room).with_rest(apart + noise)


def _enclosed(step: Curved, low: Array, high: Array) -> Taylor:
    with np.errstate(all="ignore"), refusal(_without_bound(step)):
        x = Taylor.source(low, high, order=2)
        if isinstance(step, PRelu):
            below: Any = taylor.relu_power(-x, 1) * -step.slope
            both: Taylor = below + taylor.larger(x, x.constant(0.0))
            return both
        if isinstance(step, Swish):
            gate: Taylor = x * taylor.sigmoid(x * step.beta)
            return gate
        return families.unary(step.function, x)


def _without_bound(step: Curved) -> str:
    return f"a step of kind {step.describe().kind!r} has no bound"


def served_curve(step: Curved, nodes: Nodes) -> Array:
    """[N, w]: the float32 error of a function of nodes. Raises InvalidKan."""
    if isinstance(step, PRelu):
        return np.asarray(4 * UNIT * nodes.largest * np.maximum(1, np.abs(step.slope)))
    if isinstance(step, Swish):
        return np.asarray(4e-6 * (1 + nodes.largest) * np.maximum(1, np.abs(step.beta)))
    with np.errstate(all="ignore"), refusal(_without_bound(step)):
        return np.asarray(families.emitted(step.function, Bounds.source(nodes.low, nodes.high)).error)


def steep(step: Curved, nodes: Nodes) -> Array:
    """[w]: the largest slope of a function of nodes."""
    return np.asarray(intervals.largest(_enclosed(step, nodes.low, nodes.high).coefs[1])[0])
