"""Normalizations: steps with the mean and the spread of the nodes of a row, or of groups of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, tensors_inconsistent
from kanexport.ir.steps import Affine, width_inconsistent
from kanexport.shared.manifest import NodeStep

if TYPE_CHECKING:
    from kanexport.graph.builder import Graph, Value


Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """Base class of normalizations: a scale and a bias per node [N], and an epsilon."""

    scale: Array
    bias: Array
    epsilon: float

    mixes: ClassVar[bool] = True
    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        Affine(self.scale, self.bias)
        if not 0 <= self.epsilon < np.inf:
            raise InvalidKan(
                f"the epsilon of a normalization is {self.epsilon}, expected a small number, at least 0",
                code="option-out-of-range",
                hint="pass a small positive number, such as 1e-5",
            )

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan for another number of nodes."""
        if len(self.scale) != width_in:
            raise width_inconsistent(f"a normalization of {len(self.scale)} nodes gets {width_in}")
        return width_in

    def finish(self, g: Graph, centred: Value, variance: Value) -> Value:
        """apart / sqrt(variance + epsilon) * scale + bias."""
        deviation = g.op("Sqrt", g.add(variance, g.const(self.epsilon)))
        return g.add(g.mul(g.op("Div", centred, deviation), g.const(self.scale)), g.const(self.bias))

    def describe(self) -> NodeStep:
        """Scales, biases and epsilon."""
        return NodeStep(
            kind=self.kind,
            scale=tuple(self.scale.tolist()),
            bias=tuple(self.bias.tolist()),
            epsilon=self.epsilon,
        )


class LayerNorm(Norm):
    """Layer normalization: (x - mean) / sqrt(var + epsilon) * scale + bias over the nodes of a row, with the variance
    divided by N, as in torch.nn.LayerNorm over the last axis."""

    kind = "layernorm"

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True)
        return np.asarray(centred / np.sqrt(variance + self.epsilon) * self.scale + self.bias)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        centred, variance = _centred(g, x, len(self.scale), axis=1)
        return self.finish(g, centred, variance)


class RmsNorm(Norm):
    """RMS normalization: x / sqrt(mean(x^2) + epsilon) * scale + bias over the nodes of a row: torch.nn.RMSNorm over
    the last axis, which has no bias."""

    kind = "rmsnorm"

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        square = (x**2).mean(axis=1, keepdims=True)
        return np.asarray(x / np.sqrt(square + self.epsilon) * self.scale + self.bias)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        return self.finish(g, x, _mean_square(g, x, len(self.scale), axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class GroupNorm(Norm):
    """Group normalization: a LayerNorm without weights over each of `groups` groups of consecutive nodes, then scale
    and bias of every node, as in torch.nn.GroupNorm of rows [B, N]."""

    groups: int = 1

    kind: ClassVar[str] = "groupnorm"

    def __post_init__(self) -> None:
        # Named, because a class with slots is not the one that super() knows.
        Norm.__post_init__(self)
        if self.groups < 1 or len(self.scale) % self.groups:
            raise tensors_inconsistent(
                f"{self.groups} groups do not divide {len(self.scale)} nodes",
                hint="pass a number of groups that divides the nodes",
            )

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        grouped = x.reshape(len(x), self.groups, len(self.scale) // self.groups)
        centred = grouped - grouped.mean(axis=2, keepdims=True)
        variance = (centred**2).mean(axis=2, keepdims=True)
        return np.asarray((centred / np.sqrt(variance + self.epsilon)).reshape(x.shape) * self.scale + self.bias)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        size = len(self.scale) // self.groups
        centred, variance = _centred(g, g.reshape(x, 0, self.groups, size), size, axis=2)
        deviation = g.op("Sqrt", g.add(variance, g.const(self.epsilon)))
        even = g.reshape(g.op("Div", centred, deviation), 0, len(self.scale))
        return g.add(g.mul(even, g.const(self.scale)), g.const(self.bias))

    def describe(self) -> NodeStep:
        """Groups, scales, biases and epsilon."""
        return dataclasses.replace(Norm.describe(self), indices=(self.groups,))


def _centred(g: Graph, x: Value, count: int, *, axis: int) -> tuple[Value, Value]:
    """The distances from the mean over `count` nodes, and the mean of their squares."""
    # By hand: onnxruntime's LayerNormalization takes mean(x^2) - mean(x)^2, which far
    # from zero loses every digit, or is negative. The mean is taken off twice, since
    # its rounding is as large as the differences where the nodes are nearly equal.
    share = g.const(1 / count)
    centred = x
    for _ in range(2):
        centred = g.sub(centred, g.mul(g.sum(centred, axis=axis, keepdims=True), share))
    return centred, _mean_square(g, centred, count, axis=axis)


def _mean_square(g: Graph, x: Value, count: int, *, axis: int) -> Value:
    return g.mul(g.sum(g.mul(x, x), axis=axis, keepdims=True), g.const(1 / count))


@dataclass(frozen=True, slots=True, eq=False)
class NormOfGroups:
    """LayerNorm with the same weights for each of `groups` consecutive groups of nodes."""

    norm: LayerNorm
    groups: int

    mixes = True

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan for another number of nodes."""
        return self.norm.width_out(width_in // self.groups) * self.groups

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        return self.norm.evaluate(x.reshape(-1, x.shape[1] // self.groups)).reshape(x.shape)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        width = len(self.norm.scale)
        return g.reshape(self.norm.emit(g, g.reshape(x, -1, width)), -1, width * self.groups)

    def describe(self) -> NodeStep:
        """A GroupNorm with the same scales and biases in every group."""
        scale, bias = (tuple(part.tolist()) * self.groups for part in (self.norm.scale, self.norm.bias))
        return NodeStep(kind="groupnorm", indices=(self.groups,), scale=scale, bias=bias, epsilon=self.norm.epsilon)
