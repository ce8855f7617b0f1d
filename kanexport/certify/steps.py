"""Steps between layers on nodes of many boxes, with their float32 and float64 errors."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kanexport.certify import norms, rounding
from kanexport.certify.edges import ULP, refuse
from kanexport.certify.nodes import Nodes, product
from kanexport.ir.norms import GroupNorm, LayerNorm
from kanexport.ir.scaling import Standardize
from kanexport.ir.steps import Affine, Clip, Product, Select, Step

Array = npt.NDArray[np.float64]
Passed = Callable[[Array], Array]  # from float32 errors [..., w] before a step to those after it


def with_errors(steps: tuple[Step, ...], nodes: Nodes, error: Array) -> tuple[Nodes, Array]:
    """The nodes after some steps, and their float32 errors [..., w]."""
    for step in steps:
        nodes, passed = of_step(step, nodes, True)
        error = passed(error)
    return nodes, error


def through(steps: tuple[Step, ...], nodes: Nodes, served: bool) -> Nodes:
    """The nodes after some steps. `served`: with the float32 errors of the graph. Raises InvalidKan for a step without
    an enclosure."""
    for step in steps:
        nodes, _ = of_step(step, nodes, served)
    return nodes


@functools.singledispatch
def of_step(step: Step, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    """The nodes after one step, and how it changes their float32 errors. Raises InvalidKan for a step without an
    enclosure."""
    raise refuse(f"a step of kind {step.describe().kind!r} has no enclosure in a certificate")


@of_step.register
def _select(step: Select, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    columns = list(step.indices)
    return nodes.columns(columns), lambda error: error[..., columns]


@of_step.register
def _affine(step: Affine, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    own = rounding.of_affine(step.scale, step.bias, nodes.largest)
    return (
        _line(nodes, step.scale, step.bias).widened(own * served),
        lambda error: error * np.abs(step.scale) + own[0],
    )


@of_step.register
def _standardize(step: Standardize, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    own = rounding.of_scaler(step.offset, step.scale, nodes.low, nodes.high)
    moved = _line(nodes, 1 / step.scale, -step.offset / step.scale).widened(own * served)
    return moved, lambda error: error / step.scale + own[0]


@of_step.register
def _clip(step: Clip, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    """The nodes between two limits: a line from end to end, and what remains at the corners."""
    # A limit that float32 rounds moves by one rounding.
    low, high, a, b = step.low, step.high, nodes.low, nodes.high
    fa, fb = np.clip(a, low, high), np.clip(b, low, high)
    width = np.where(b > a, b - a, 1.0)
    slope = np.clip((fb - fa) / width, 0, 1)
    corners = np.stack([a, b, np.clip(low, a, b), np.clip(high, a, b)])
    rest = np.clip(corners, low, high) - slope * corners
    least, most = rest.min(axis=0), rest.max(axis=0)
    passes, stops = (a >= low) & (b <= high), (b < low) | (a > high)
    kept, opened = np.where(stops, 0.0, 1.0)[:, None, :], np.where(passes, 1.0, 0.0)[:, None, :]
    down = np.minimum(nodes.down * opened, nodes.down * kept)
    up = np.maximum(nodes.up * opened, nodes.up * kept)
    moved = Nodes(nodes.center * slope + (least + most) / 2, nodes.form * slope[:, None, :], fa, fb, down, up)
    limits = rounding.UNIT * np.maximum(np.abs(low), np.abs(high))
    moved = moved.widened((most - least) / 2 + 8 * ULP * (nodes.size + np.abs(fa) + np.abs(fb)) + limits)
    return moved, lambda error: error + limits


@of_step.register
def _beside(step: norms.Beside, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    even, passed = of_step(LayerNorm(step.scale, step.bias, step.epsilon), nodes, served)
    return nodes.beside(even), lambda error: np.concatenate([error, passed(error)], axis=-1)


@of_step.register
def _norm(step: LayerNorm | GroupNorm, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    parts = norms.Parts.of(step, nodes)
    own, even = norms.rounding_of_norm(parts, nodes), norms.normalized(parts)
    shift = rounding.of_affine(step.scale, step.bias, even.largest)
    moved = _line(even.widened(own * served), step.scale, step.bias).widened(shift * served)
    return moved, lambda error: (parts.passed(error) + own[0]) * np.abs(step.scale) + shift[0]


@of_step.register
def _curved(step: norms.Curved, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    own = norms.served_curve(step, nodes)
    return norms.curved(step, nodes).widened(own * served), lambda error: error * norms.steep(step, nodes) + own[0]


@of_step.register
def _products(step: Product, nodes: Nodes, served: bool) -> tuple[Nodes, Passed]:
    """The product of the nodes of each group, one factor of all groups at a time."""
    starts = [sum(step.groups[:at]) for at in range(len(step.groups))]
    result = nodes.columns(starts)
    for rank in range(1, max(step.groups, default=1)):
        longer = np.array([count > rank for count in step.groups])
        factors = nodes.columns([first + rank if more else first for first, more in zip(starts, longer, strict=True)])
        both = _times(result, factors.with_symbols(result.form.shape[1]), served)
        # Groups that ended keep their node; the new symbols are zero for them.
        result = both.mapped(functools.partial(_either, longer), result.with_symbols(both.form.shape[1]))
    largest = nodes.largest[0]

    def passed(error: Array) -> Array:
        errors = []
        for first, count in zip(starts, step.groups, strict=True):
            size, total = largest[first], error[..., first]
            for at in range(first + 1, first + count):
                total = total * largest[at] + error[..., at] * size + total * error[..., at]
                size = size * largest[at]
                total = total + 2 * rounding.UNIT * size
            errors.append(total)
        return np.stack(errors, axis=-1)

    return result, passed


def _either(mask: npt.NDArray[np.bool_], a: Array, b: Array) -> Array:
    return np.where(mask, a, b)


def _times(a: Nodes, b: Nodes, served: bool) -> Nodes:
    """The products of two nodes with the same symbols. The product of both deviations is a new symbol."""
    low, high = product(a.low, a.high, b.low, b.high)
    form = a.center[:, None] * b.form + b.center[:, None] * a.form
    rest = np.abs(a.form).sum(axis=1) * np.abs(b.form).sum(axis=1)
    first = product(a.down, a.up, b.low[:, None], b.high[:, None])
    second = product(b.down, b.up, a.low[:, None], a.high[:, None])
    down, up = first[0] + second[0], first[1] + second[1]
    margin = 8 * ULP * sum(np.abs(part) for part in (*first, *second))
    noise = (8 + form.shape[1]) * ULP * a.size * b.size
    both = Nodes(a.center * b.center, form, low - noise, high + noise, down - margin, up + margin)
    both = both.with_rest(rest + noise)
    return both.widened(2 * rounding.UNIT * both.largest) if served else both


def _line(nodes: Nodes, scale: Array, shift: Array) -> Nodes:
    """x * scale + shift of each node, with the float64 error of these operations."""
    ends = nodes.low * scale + shift, nodes.high * scale + shift
    slopes = nodes.down * scale, nodes.up * scale
    margin = 4 * ULP * np.maximum(np.abs(slopes[0]), np.abs(slopes[1]))
    moved = Nodes(
        nodes.center * scale + shift,
        nodes.form * scale,
        np.minimum(*ends),
        np.maximum(*ends),
        np.minimum(*slopes) - margin,
        np.maximum(*slopes) + margin,
    )
    return moved.widened(8 * ULP * (np.abs(scale) * nodes.size + np.abs(shift)))
