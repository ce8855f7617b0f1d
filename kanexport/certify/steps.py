"""Steps between layers on nodes of many boxes, with their float32 and float64 errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kanexport.certify import norms, rounding
from kanexport.certify.edges import ULP, refuse
from kanexport.certify.nodes import Nodes, product
from kanexport.ir.norms import GroupNorm, LayerNorm
from kanexport.ir.scaling import Standardize
from kanexport.ir.steps import Affine, Clip, Product, Select, Step

Array = npt.NDArray[np.float64]


def with_errors(steps: tuple[Step, ...], nodes: Nodes, error: Array) -> tuple[Nodes, Array]:
    """The nodes after some steps, and their float32 errors [..., w]."""
    for step in steps:
        if isinstance(step, Select):
            error = error[..., list(step.indices)]
        elif isinstance(step, Affine):
            error = error * np.abs(step.scale) + rounding.of_affine(step.scale, step.bias, nodes.largest)[0]
        elif isinstance(step, Standardize):
            error = error / step.scale + rounding.of_scaler(step.offset, step.scale, nodes.low, nodes.high)[0]
        elif isinstance(step, Clip):
            error = error + rounding.UNIT * np.maximum(np.abs(step.low), np.abs(step.high))
        elif isinstance(step, Product):
            error = _error_of_products(step, nodes.largest[0], error)
        elif isinstance(step, norms.Beside):
            bare = LayerNorm(step.scale, step.bias, step.epsilon)
            error = np.concatenate([error, with_errors((bare,), nodes, error)[1]], axis=-1)
        elif isinstance(step, (LayerNorm, GroupNorm)):
            error = norms.error_of_norm(step, nodes, error) * np.abs(step.scale)
            largest = norms.normalized(step, nodes).largest
            error = error + rounding.of_affine(step.scale, step.bias, largest)[0]
        elif isinstance(step, norms.Curved):
            error = error * norms.steep(step, nodes) + norms.served_curve(step, nodes)[0]
        nodes = of_step(step, nodes, True)
    return nodes, error


def through(steps: tuple[Step, ...], nodes: Nodes, served: bool) -> Nodes:
    """The nodes after some steps. `served`: with the float32 errors of the graph. Raises InvalidKan for a step without
    an enclosure."""
    for step in steps:
        nodes = of_step(step, nodes, served)
    return nodes


def _error_of_products(step: Product, largest: Array, error: Array) -> Array:
    """The float32 errors of products [..., groups], from the magnitudes and errors of their factors [..., values]."""
    errors = []
    for first, count in zip(_starts(step), step.groups, strict=True):
        size, total = largest[first], error[..., first]
        for at in range(first + 1, first + count):
            total = total * largest[at] + error[..., at] * size + total * error[..., at]
            size = size * largest[at]
            total = total + 2 * rounding.UNIT * size
        errors.append(total)
    return np.stack(errors, axis=-1)


def _starts(step: Product) -> list[int]:
    """The first value of each group."""
    return [sum(step.groups[:at]) for at in range(len(step.groups))]


def _products(step: Product, nodes: Nodes, served: bool) -> Nodes:
    """The product of the nodes of each group, one factor of all groups at a time."""
    starts = _starts(step)
    result = nodes.columns(starts)
    for rank in range(1, max(step.groups, default=1)):
        longer = np.array([count > rank for count in step.groups])
        factors = nodes.columns([first + rank if more else first for first, more in zip(starts, longer, strict=True)])
        form = np.concatenate(
            [factors.form, np.zeros((len(factors.form), _added(result, factors), len(starts)))], axis=1
        )
        both = _times(result, dataclasses.replace(factors, form=form), served)
        # Groups that ended keep their node; the new symbols are zero for them.
        kept = np.pad(result.form, ((0, 0), (0, both.form.shape[1] - result.form.shape[1]), (0, 0)))
        padded = dataclasses.replace(result, form=kept)
        parts = {
            f.name: np.where(longer, getattr(both, f.name), getattr(padded, f.name)) for f in dataclasses.fields(both)
        }
        result = Nodes(**parts)
    return result


def _added(result: Nodes, factors: Nodes) -> int:
    """How many symbols the products so far have added."""
    return int(result.form.shape[1] - factors.form.shape[1])


def _times(a: Nodes, b: Nodes, served: bool) -> Nodes:
    """The products of two nodes with the same symbols. The product of both deviations is a new symbol."""
    low, high = product(a.low, a.high, b.low, b.high)
    form = a.center[:, None] * b.form + b.center[:, None] * a.form
    rest = np.abs(a.form).sum(axis=1) * np.abs(b.form).sum(axis=1)
    first = product(a.down, a.up, b.low[:, None], b.high[:, None])
    second = product(b.down, b.up, a.low[:, None], a.high[:, None])
    down, up = first[0] + second[0], first[1] + second[1]
    margin = 8 * ULP * sum(np.abs(part) for part in (*first, *second))
    both = Nodes(a.center * b.center, form, low, high, down - margin, up + margin)
    noise = (8 + form.shape[1]) * ULP * a.size * b.size
    both = both.widened(rest + noise)
    both = dataclasses.replace(both, low=low - noise, high=high + noise)
    both = both.within(*both.summed())
    return both.widened(2 * rounding.UNIT * both.largest) if served else both


def of_step(step: Step, nodes: Nodes, served: bool) -> Nodes:
    """The nodes after one step. Raises InvalidKan for a step without an enclosure."""
    if isinstance(step, Select):
        return nodes.columns(step.indices)
    if isinstance(step, Affine):
        error = rounding.of_affine(step.scale, step.bias, nodes.largest) * served
        return _line(nodes, step.scale, step.bias).widened(error)
    if isinstance(step, Standardize):
        error = rounding.of_scaler(step.offset, step.scale, nodes.low, nodes.high) * served
        return _line(nodes, 1 / step.scale, -step.offset / step.scale).widened(error)
    if isinstance(step, Clip):
        return _clipped(nodes, step.low, step.high)
    if isinstance(step, Product):
        return _products(step, nodes, served)
    if isinstance(step, norms.Beside):
        return nodes.beside(of_step(LayerNorm(step.scale, step.bias, step.epsilon), nodes, served))
    if isinstance(step, (LayerNorm, GroupNorm)):
        error = norms.served_norm(step, nodes) * served
        even = norms.normalized(step, nodes)
        shift = rounding.of_affine(step.scale, step.bias, even.largest) * served
        return _line(even.widened(error), step.scale, step.bias).widened(shift)
    if isinstance(step, norms.Curved):
        return norms.curved(step, nodes).widened(norms.served_curve(step, nodes) * served)
    raise refuse(f"a step of kind {step.describe().kind!r} has no enclosure in a certificate")


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


def _clipped(nodes: Nodes, low: Array, high: Array) -> Nodes:
    """The nodes between two limits: a line from end to end, and what remains at the corners."""
    # A limit that float32 rounds moves by one rounding.
    a, b = nodes.low, nodes.high
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
    return moved.widened((most - least) / 2 + 8 * ULP * (nodes.size + np.abs(fa) + np.abs(fb)) + limits)
