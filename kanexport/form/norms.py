"""Steps that look at the whole row: normalisations and softmax. They make edges after them class B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan
from kanexport.form.steps import Affine
from kanexport.manifest import NodeStep

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """What the normalisations share: a scale and a bias per node [N], and an epsilon."""

    scale: Array
    bias: Array
    epsilon: float

    mixes: ClassVar[bool] = True
    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        Affine(self.scale, self.bias)
        if not 0 <= self.epsilon < np.inf:
            raise InvalidKan(f"the epsilon of a normalisation is {self.epsilon}, expected a small number, not negative")

    def width_out(self, width_in: int) -> int:
        """As many as before. Raises InvalidKan if there is another number of nodes."""
        if len(self.scale) != width_in:
            raise InvalidKan(f"a normalisation of {len(self.scale)} nodes is given {width_in}")
        return width_in

    def finish(self, g: Graph, apart: Value, variance: Value) -> Value:
        """apart / sqrt(variance + epsilon) * scale + bias."""
        deviation = g.op("Sqrt", g.add(variance, g.const(self.epsilon)))
        return g.add(g.mul(g.op("Div", apart, deviation), g.const(self.scale)), g.const(self.bias))

    def describe(self) -> NodeStep:
        """Its scales, biases and epsilon."""
        return NodeStep(
            kind=self.kind,
            scale=tuple(self.scale.tolist()),
            bias=tuple(self.bias.tolist()),
            epsilon=self.epsilon,
        )


class LayerNorm(Norm):
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the nodes of a row, with the
    variance divided by N: torch.nn.LayerNorm over the last axis."""

    kind = "layernorm"

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        apart = x - x.mean(axis=1, keepdims=True)
        variance = (apart**2).mean(axis=1, keepdims=True)
        return np.asarray(apart / np.sqrt(variance + self.epsilon) * self.scale + self.bias)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        apart, variance = _apart(g, x, len(self.scale), axis=1)
        return self.finish(g, apart, variance)


class RmsNorm(Norm):
    """x / sqrt(mean(x^2) + epsilon) * scale + bias over the nodes of a row: torch.nn.RMSNorm
    over the last axis, which has no bias."""

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
    """A LayerNorm without weights over each of `groups` runs of consecutive nodes, then scale and bias
    of every node: torch.nn.GroupNorm of rows [B, N]."""

    groups: int = 1

    kind: ClassVar[str] = "groupnorm"

    def __post_init__(self) -> None:
        # Named, because a class with slots is not the one that super() knows.
        Norm.__post_init__(self)
        if self.groups < 1 or len(self.scale) % self.groups:
            raise InvalidKan(f"{self.groups} groups do not divide {len(self.scale)} nodes")

    @property
    def _size(self) -> int:
        return len(self.scale) // self.groups

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        grouped = x.reshape(len(x), self.groups, self._size)
        apart = grouped - grouped.mean(axis=2, keepdims=True)
        variance = (apart**2).mean(axis=2, keepdims=True)
        return np.asarray((apart / np.sqrt(variance + self.epsilon)).reshape(x.shape) * self.scale + self.bias)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        apart, variance = _apart(g, g.reshape(x, 0, self.groups, self._size), self._size, axis=2)
        deviation = g.op("Sqrt", g.add(variance, g.const(self.epsilon)))
        even = g.reshape(g.op("Div", apart, deviation), 0, self.groups * self._size)
        return g.add(g.mul(even, g.const(self.scale)), g.const(self.bias))

    def describe(self) -> NodeStep:
        """Its groups, scales, biases and epsilon."""
        return NodeStep(
            kind=self.kind,
            indices=(self.groups,),
            scale=tuple(self.scale.tolist()),
            bias=tuple(self.bias.tolist()),
            epsilon=self.epsilon,
        )


@dataclass(frozen=True, slots=True)
class Softmax:
    """exp(x) / sum exp(x) over the nodes of a row, or its logarithm."""

    log: bool = False

    mixes: ClassVar[bool] = True

    def width_out(self, width_in: int) -> int:
        """As many as before, of any number."""
        return width_in

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        apart = x - x.max(axis=1, keepdims=True)
        total = np.exp(apart).sum(axis=1, keepdims=True)
        return np.asarray(apart - np.log(total) if self.log else np.exp(apart) / total)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        apart = g.sub(x, g.op("ReduceMax", x, axes=[1], keepdims=1))
        powers = g.op("Exp", apart)
        total = g.sum(powers, axis=1, keepdims=True)
        return g.sub(apart, g.op("Log", total)) if self.log else g.op("Div", powers, total)

    def describe(self) -> NodeStep:
        """Its name."""
        return NodeStep(kind="function", function="log_softmax" if self.log else "softmax")


def _apart(g: Graph, x: Value, count: int, *, axis: int) -> tuple[Value, Value]:
    """The distances from the mean over `count` nodes, and the mean of their squares."""
    # By hand: onnxruntime's LayerNormalization takes mean(x^2) - mean(x)^2, which far
    # from zero loses every digit, or is negative. The mean is taken off twice, since
    # its rounding is as large as the differences where the nodes are nearly equal.
    share = g.const(1 / count)
    apart = x
    for _ in range(2):
        apart = g.sub(apart, g.mul(g.sum(apart, axis=axis, keepdims=True), share))
    return apart, _mean_square(g, apart, count, axis=axis)


def _mean_square(g: Graph, x: Value, count: int, *, axis: int) -> Value:
    return g.mul(g.sum(g.mul(x, x), axis=axis, keepdims=True), g.const(1 / count))
