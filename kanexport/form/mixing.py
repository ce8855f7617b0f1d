"""Steps that make every node from all nodes of the row, beyond the normalisations of `norms.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan
from kanexport.form.norms import LayerNorm
from kanexport.manifest import NodeStep

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FourierFeatures:
    """cos(x P + p) and sin(x P + p), combined to as many nodes: [cos, sin] C + c, with P [N, G],
    p [G], C [2 G, N], c [N].

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
                f"and {self.shift.shape} do not fit"
            )
        if not all(np.isfinite(a).all() for a in (self.projection, self.phase, self.combination, self.shift)):
            raise InvalidKan("a weight of the Fourier features is not finite")

    def width_out(self, width_in: int) -> int:
        """As many as before. Raises InvalidKan if there is another number of nodes."""
        if len(self.projection) != width_in:
            raise InvalidKan(f"Fourier features of {len(self.projection)} nodes are given {width_in}")
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
        """What it is, in words."""
        return NodeStep(kind="function", function=f"Fourier features ({len(self.phase)} frequencies of the whole row)")


@dataclass(frozen=True, slots=True, eq=False)
class NormOfGroups:
    """The same LayerNorm of each of `groups` consecutive groups of nodes by itself."""

    norm: LayerNorm
    groups: int

    mixes = True

    def width_out(self, width_in: int) -> int:
        """As many as before. Raises InvalidKan if there is another number of nodes."""
        return self.norm.width_out(width_in // self.groups) * self.groups

    def evaluate(self, x: Array) -> Array:
        """[B, N] -> [B, N]."""
        return self.norm.evaluate(x.reshape(-1, x.shape[1] // self.groups)).reshape(x.shape)

    def emit(self, g: Graph, x: Value) -> Value:
        """[B, N] -> [B, N]."""
        width = len(self.norm.scale)
        return g.reshape(self.norm.emit(g, g.reshape(x, -1, width)), -1, width * self.groups)

    def describe(self) -> NodeStep:
        """A GroupNorm whose scales and biases are the same in every group."""
        scale, bias = (tuple(part.tolist()) * self.groups for part in (self.norm.scale, self.norm.bias))
        return NodeStep(kind="groupnorm", indices=(self.groups,), scale=scale, bias=bias, epsilon=self.norm.epsilon)
