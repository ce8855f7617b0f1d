"""Steps over all nodes of a row, such as normalizations, and a network with inputs clamped to the grid of its first
layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan, OptionError
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.steps import Affine, Clip, Select
from kanexport.shared import grids
from kanexport.shared.manifest import NodeStep

if TYPE_CHECKING:
    from kanexport.graph.builder import Graph, Value


Array = npt.NDArray[np.float64]

ANYWHERE = 1e30  # of an input that no edge reads
HINT = "use --out-of-range reject or flag, which work for models whose inputs have a grid or a --baseline"


NOTE = (
    "inputs are clamped to the grid of the first layer (--out-of-range clamp): a row out of grid gets the output of "
    "the nearest row in the grid, not the output of the trained model"
)


def clamped(kan: Kan) -> Kan:
    """The network with a Clip before its first layer. Raises OptionError if the first layer has no grid."""
    first = kan.layers[0]
    layer = dataclasses.replace(first, pre_steps=(*first.pre_steps, Clip(*limits(first))))
    return dataclasses.replace(kan, layers=(layer, *kan.layers[1:]), notes=(*kan.notes, NOTE))


def limits(layer: Layer) -> tuple[Array, Array]:
    """[I] and [I]: the range of each source on the grids of all terms that read it. Raises OptionError."""
    terms = [term for term in layer.terms if isinstance(term, BasisTerm) and term.basis.knots().size]
    if any(not isinstance(step, Select) for step in layer.pre_steps) or any(term.pre_steps for term in terms):
        raise OptionError(
            "--out-of-range clamp does not fit this model: a step before the first layer, such as a normalization, "
            "already maps its inputs to the grid",
            code="clamp-not-possible",
            hint=HINT,
        )
    low, high = np.full(layer.sources, -np.inf), np.full(layer.sources, np.inf)
    for term in terms:
        ends = _ends(term)
        low, high = np.maximum(low, ends[:, 0]), np.minimum(high, ends[:, 1])
    inputs = np.array(columns(layer))
    for at in np.flatnonzero(np.bincount(inputs) > 1):  # one that is several sources is kept on the grids of all
        low[inputs == at], high[inputs == at] = low[inputs == at].max(), high[inputs == at].min()
    _require(low, high, inputs, np.asarray(layer.active().any(axis=1)))
    return np.maximum(low, -ANYWHERE), np.minimum(high, ANYWHERE)


def _ends(term: BasisTerm) -> Array:
    """[I, 2], or [1, 2] if all sources share it: the grid of each source, without ends if there is none."""
    source_grids = [grids.of_knots(term.kind, term.functions, row) for row in term.basis.knots().tolist()]
    return np.array([(grid.low, grid.high) if grid else (-np.inf, np.inf) for grid in source_grids])


def _require(low: Array, high: Array, inputs: npt.NDArray[np.intp], read: npt.NDArray[np.bool_]) -> None:
    """Check that each source that is read has a range, [I] each. Raises OptionError."""
    bare = np.flatnonzero(read & ~np.isfinite(low))
    disjoint = np.flatnonzero(low > high)
    if len(bare):
        raise OptionError(
            f"--out-of-range clamp does not fit this model: input {inputs[bare[0]]} has no grid",
            code="clamp-not-possible",
            hint=HINT,
        )
    if len(disjoint):
        raise OptionError(
            f"--out-of-range clamp does not fit this model: the grids of input {inputs[disjoint[0]]} do not overlap",
            code="clamp-not-possible",
            hint=HINT,
        )


def columns(layer: Layer) -> list[int]:
    """The number of the input that each source reads, [I]. The layer has only selections and clips before it."""
    inputs = list(range(layer.sources))
    for step in reversed(layer.pre_steps):
        if isinstance(step, Select):
            inputs = [step.indices[at] for at in inputs]
    return inputs


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
            raise InvalidKan(
                f"a normalization of {len(self.scale)} nodes gets {width_in}",
                code="tensors-inconsistent",
                hint="pass the order of the modules with --architecture FILE",
            )
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
            raise InvalidKan(
                f"{self.groups} groups do not divide {len(self.scale)} nodes",
                code="tensors-inconsistent",
                hint="pass a number of groups that divides the nodes",
            )

    @property
    def _size(self) -> int:
        return len(self.scale) // self.groups

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        grouped = x.reshape(len(x), self.groups, self._size)
        centred = grouped - grouped.mean(axis=2, keepdims=True)
        variance = (centred**2).mean(axis=2, keepdims=True)
        return np.asarray((centred / np.sqrt(variance + self.epsilon)).reshape(x.shape) * self.scale + self.bias)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        centred, variance = _centred(g, g.reshape(x, 0, self.groups, self._size), self._size, axis=2)
        deviation = g.op("Sqrt", g.add(variance, g.const(self.epsilon)))
        even = g.reshape(g.op("Div", centred, deviation), 0, self.groups * self._size)
        return g.add(g.mul(even, g.const(self.scale)), g.const(self.bias))

    def describe(self) -> NodeStep:
        """Groups, scales, biases and epsilon."""
        return NodeStep(
            kind=self.kind,
            indices=(self.groups,),
            scale=tuple(self.scale.tolist()),
            bias=tuple(self.bias.tolist()),
            epsilon=self.epsilon,
        )


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
            raise InvalidKan(
                f"Fourier features of shapes {self.projection.shape}, {self.phase.shape}, {self.combination.shape} "
                f"and {self.shift.shape} do not fit",
                code="tensors-inconsistent",
                hint=CHECK_FAMILY,
            )
        if not all(np.isfinite(a).all() for a in (self.projection, self.phase, self.combination, self.shift)):
            raise InvalidKan("a weight of the Fourier features is not finite", code="weights-not-finite", hint=REPAIR)

    def width_out(self, width_in: int) -> int:
        """The same width. Raises InvalidKan for another number of nodes."""
        if len(self.projection) != width_in:
            raise InvalidKan(
                f"Fourier features of {len(self.projection)} nodes get {width_in}",
                code="tensors-inconsistent",
                hint="pass the order of the modules with --architecture FILE",
            )
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
