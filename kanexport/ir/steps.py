"""Steps on nodes before and after the sum of the edges.

Each step has both faces, like a basis: float64 numpy and ONNX operators. Normalizations are in `ir/norms.py`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, tensors_inconsistent, weights_not_finite
from kanexport.functions import elementwise
from kanexport.functions.elementwise import Unary
from kanexport.shared.manifest import NodeStep

if TYPE_CHECKING:
    from kanexport.graph.builder import Graph, Value

width_inconsistent = functools.partial(
    InvalidKan, code="tensors-inconsistent", hint="pass the order of the modules with --architecture FILE"
)
Array = npt.NDArray[np.float64]


class Step(Protocol):
    """Map from [B, width_in] to [B, width_out]. `mixes`: a node of the result depends on other nodes of the same row,
    so that edges are class B."""

    @property
    def mixes(self) -> bool:
        """Whether a node of the result depends on other nodes of the row."""

    def width_out(self, width_in: int) -> int:
        """The number of nodes after the step. Raises InvalidKan if it does not fit."""

    def evaluate(self, x: Array) -> Array:
        """[B, width_in] -> [B, width_out], float64."""

    def emit(self, g: Graph, x: Value) -> Value:
        """The same as operators."""

    def describe(self) -> NodeStep:
        """The step in the words of the manifest."""


@dataclass(frozen=True, slots=True)
class Select:
    """Selection of columns, in the given order: pykan's `input_id` after prune_input."""

    indices: tuple[int, ...]

    mixes = False

    def width_out(self, width_in: int) -> int:
        """The number of columns that are kept. Raises InvalidKan for a missing one."""
        wrong = [i for i in self.indices if not 0 <= i < width_in]
        if wrong:
            raise InvalidKan(
                f"column {wrong[0]} is selected, expected columns below {width_in}",
                code="option-out-of-range",
                hint="correct the selected columns; they count from 0",
            )
        return len(self.indices)

    def evaluate(self, x: Array) -> Array:
        """[B, width_in] -> [B, columns]."""
        return x[:, list(self.indices)]

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, width_in] -> [B, columns]."""
        return g.gather(x, self.indices, axis=1)

    def describe(self) -> NodeStep:
        """The columns."""
        return NodeStep(kind="select", indices=self.indices)


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Affine map x * scale + bias, per node [N]."""

    scale: Array
    bias: Array

    mixes = False

    def __post_init__(self) -> None:
        if self.scale.shape != self.bias.shape or self.scale.ndim != 1:
            raise tensors_inconsistent(f"node scale {self.scale.shape} and bias {self.bias.shape} differ in shape")
        if not (np.isfinite(self.scale).all() and np.isfinite(self.bias).all()):
            raise weights_not_finite("a node scale or bias is not finite")

    @property
    def trivial(self) -> bool:
        """True if the step has no effect."""
        return bool(np.all(self.scale == 1) and np.all(self.bias == 0))

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan for another number of nodes."""
        if len(self.scale) != width_in:
            raise width_inconsistent(f"node scale has {len(self.scale)} values for {width_in} nodes")
        return width_in

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        return x * self.scale + self.bias

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        return g.add(g.mul(x, g.const(self.scale)), g.const(self.bias))

    def describe(self) -> NodeStep:
        """Scales and biases."""
        return NodeStep(kind="affine", scale=tuple(self.scale.tolist()), bias=tuple(self.bias.tolist()))


@dataclass(frozen=True, slots=True)
class Product:
    """Product of consecutive values in groups of the given sizes: pykan's multiplication nodes. A group of one passes
    through."""

    groups: tuple[int, ...]

    mixes = False  # after the sums, where no edge reads any more

    def width_out(self, width_in: int) -> int:
        """One value per group. Raises InvalidKan if the groups do not cover the values."""
        if sum(self.groups) != width_in or min(self.groups, default=1) < 1:
            raise tensors_inconsistent(f"product groups {self.groups} do not cover {width_in} values")
        return len(self.groups)

    def evaluate(self, x: Array) -> Array:
        """[B, values] -> [B, groups]."""
        starts = np.concatenate([[0], np.cumsum(self.groups)[:-1]]).astype(int)
        return np.multiply.reduceat(x, starts, axis=1) if len(starts) else x

    def emit(self, g: Graph, x: Value) -> Value:
        """The first columns of all groups, times the second columns of all groups, and so on. Groups that have ended
        contribute a column of ones."""
        ones = g.op("Pad", x, g.index([0, 0, 0, 1]), g.const(1.0))
        end = sum(self.groups)
        starts = np.concatenate([[0], np.cumsum(self.groups)[:-1]]).astype(int)
        result = g.gather(x, starts, axis=1)
        for rank in range(1, max(self.groups)):
            columns = [int(s) + rank if rank < n else end for s, n in zip(starts, self.groups, strict=True)]
            result = g.mul(result, g.gather(ones, columns, axis=1))
        return result

    def describe(self) -> NodeStep:
        """The sizes of its groups."""
        return NodeStep(kind="product", indices=self.groups)


@dataclass(frozen=True, slots=True)
class RowRange:
    """Range normalization 2 (x - min) / (max - min) - 1 with the smallest and largest node of the row. A row of equal
    nodes gives NaN, like 0 / 0."""

    mixes = True

    def width_out(self, width_in: int) -> int:
        """The same width, for any number of nodes."""
        return width_in

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
        return np.asarray(2 * (x - low) / (high - low) - 1)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]. The operators for extremes may lose NaN."""
        spoilt = g.sum(g.cast(g.op("IsNaN", x)), axis=1, keepdims=True, exact=True)
        low, high = (g.op(kind, x, axes=[1], keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
        scaled = g.op("Div", g.mul(g.sub(x, low), g.const(2.0)), g.sub(high, low))
        return g.op("Where", g.op("Greater", spoilt, g.const(0.0)), g.nan(), g.sub(scaled, g.const(1.0)))

    def describe(self) -> NodeStep:
        """Only the kind."""
        return NodeStep(kind="rowrange")


@dataclass(frozen=True, slots=True)
class Softmax:
    """Softmax over the nodes of a row: exp(x) / sum exp(x), or its logarithm."""

    log: bool = False

    mixes: ClassVar[bool] = True

    def width_out(self, width_in: int) -> int:
        """The same width, for any number of nodes."""
        return width_in

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        centred = x - x.max(axis=1, keepdims=True)
        total = np.exp(centred).sum(axis=1, keepdims=True)
        return np.asarray(centred - np.log(total) if self.log else np.exp(centred) / total)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        centred = g.sub(x, g.op("ReduceMax", x, axes=[1], keepdims=1))
        powers = g.op("Exp", centred)
        total = g.sum(powers, axis=1, keepdims=True)
        return g.sub(centred, g.op("Log", total)) if self.log else g.op("Div", powers, total)

    def describe(self) -> NodeStep:
        """The name of the function."""
        return NodeStep(kind="function", function="log_softmax" if self.log else "softmax")


@dataclass(frozen=True, slots=True, eq=False)
class FourierFeatures:
    """Fourier features: cos(x P + p) and sin(x P + p), combined to as many nodes: [cos, sin] C + c, with P [N, G], p
    [G], C [2 G, N], c [N].

    Source: KAF's RandomFourierFeatures (kolmogorovArnoldFourierNetwork/KAF).
    """

    projection: Array
    phase: Array
    combination: Array
    shift: Array

    mixes = True

    def __post_init__(self) -> None:
        n, count = self.projection.shape if self.projection.ndim == 2 else (0, 0)
        fits = (self.phase.shape, self.combination.shape, self.shift.shape) == ((count,), (2 * count, n), (n,))
        if not fits or not n or not count:
            raise tensors_inconsistent(
                f"Fourier features of shapes {self.projection.shape}, {self.phase.shape}, {self.combination.shape} "
                f"and {self.shift.shape} do not fit"
            )
        if not all(np.isfinite(a).all() for a in (self.projection, self.phase, self.combination, self.shift)):
            raise weights_not_finite("a weight of the Fourier features is not finite")

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan for another number of nodes."""
        if len(self.projection) != width_in:
            raise width_inconsistent(f"Fourier features of {len(self.projection)} nodes get {width_in}")
        return width_in

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        inner = x @ self.projection + self.phase
        return np.asarray(np.concatenate([np.cos(inner), np.sin(inner)], axis=1) @ self.combination + self.shift)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        inner = g.gemm(x, g.const(self.projection), g.const(self.phase))
        waves = g.op("Concat", g.op("Cos", inner), g.op("Sin", inner), axis=1)
        return g.gemm(waves, g.const(self.combination), g.const(self.shift))

    def describe(self) -> NodeStep:
        """The formula as text."""
        return NodeStep(kind="function", function=f"Fourier features ({len(self.phase)} frequencies of the whole row)")


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Elementwise function of every node, such as tanh between two layers."""

    function: Unary

    mixes = False

    def width_out(self, width_in: int) -> int:
        """The same width, for any number of nodes."""
        return width_in

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        return self.function.evaluate(x)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        return self.function.emit(g, x)

    def describe(self) -> NodeStep:
        """The name of the function."""
        return NodeStep(kind="function", function=self.function.name)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Clamp of each node between `low` and `high` [N]; NaN stays NaN."""

    low: Array
    high: Array

    mixes = False

    def __post_init__(self) -> None:
        Affine(self.low, self.high)
        if not (self.low <= self.high).all():
            raise weights_not_finite("the lower limit of a node is above its upper limit")

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan for another number of nodes."""
        return Affine(self.low, self.high).width_out(width_in)

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        return np.clip(x, self.low, self.high)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        clamped = g.op("Min", g.op("Max", x, g.const(self.low)), g.const(self.high))
        return g.op("Where", g.op("IsNaN", x), x, clamped)

    def describe(self) -> NodeStep:
        """The effect as text."""
        ends = np.unique(self.low), np.unique(self.high)
        shown = ", ".join(f"{e[0]:.4g}" if len(e) == 1 else f"{e[0]:.4g} .. {e[-1]:.4g}" for e in ends)
        low, high = tuple(self.low.tolist()), tuple(self.high.tolist())
        return NodeStep(kind="clip", scale=low, bias=high, function=f"clip to [{shown}]")


@dataclass(frozen=True, slots=True, eq=False)
class PRelu:
    """Parametric ReLU: x where positive, slope * x elsewhere; one slope, or one per node."""

    slope: Array

    mixes = False

    def __post_init__(self) -> None:
        if self.slope.ndim != 1 or not len(self.slope) or not np.isfinite(self.slope).all():
            raise weights_not_finite(f"PReLU slopes have shape {self.slope.shape}, expected one or more finite numbers")

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan if there is neither one slope nor one per node."""
        if len(self.slope) not in (1, width_in):
            raise width_inconsistent(f"PReLU has {len(self.slope)} slopes for {width_in} nodes")
        return width_in

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        return np.where(x > 0, x, self.slope * x)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        return g.op("PRelu", x, g.const(self.slope))

    def describe(self) -> NodeStep:
        """The slopes."""
        return NodeStep(kind="prelu", scale=tuple(self.slope.tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class Swish:
    """Swish x * sigmoid(beta * x) with a trained beta; one, or one per node."""

    beta: Array

    mixes = False

    def __post_init__(self) -> None:
        if self.beta.ndim != 1 or not len(self.beta) or not np.isfinite(self.beta).all():
            raise weights_not_finite(f"beta of Swish has shape {self.beta.shape}, expected one or more finite numbers")

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan if there is neither one beta nor one per node."""
        if len(self.beta) not in (1, width_in):
            raise width_inconsistent(f"Swish has {len(self.beta)} betas for {width_in} nodes")
        return width_in

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        return np.asarray(x * elementwise.ACTIVATIONS["sigmoid"].evaluate(self.beta * x))

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        return g.mul(x, elementwise.ACTIVATIONS["sigmoid"].emit(g, g.mul(x, g.const(self.beta))))

    def describe(self) -> NodeStep:
        """The betas."""
        return NodeStep(kind="swish", scale=tuple(self.beta.tolist()))
