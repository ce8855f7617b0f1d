"""Basis functions of KAN edges: kinds of one-dimensional functions, one module per kind.

A basis turns every source value into K numbers. It has two faces of one
formula, `evaluate` in float64 numpy and `emit` as ONNX operators, and the
conformance test holds one against the other for every file of this folder.

Adding a family is adding a file, which nothing else names. It defines a subclass of `Basis`, whose `__post_init__`
raises InvalidKan for numbers that make no function. A file of the same name in `tests/support/basis_examples/` has
small instances of it for 3 sources, odd ones among them, such as

    def examples() -> list[Basis]:
        return [Gaussian(np.linspace(-2, 2, 8), 4 / 7), Gaussian(np.array([0.5]), 1.0)]

A class whose functions have no kink except at 0 may have a float `smooth_width`: the width of its narrowest feature.
Certificates then enclose it, by `evaluate` and `emit` on intervals. Otherwise, a network of the basis has none.

A reader of `kanexport/readers/` then makes it the basis of a term:
`BasisTerm(Gaussian(centres, width), coefficients)`, with coefficients [I, O, K].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kanexport.graph.builder import Graph, Value

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Support:
    """Input ranges of a basis, per source. The verification chooses its rows from them.

    core    (low [I], high [I]): the range of the training data
    outer   (low [I], high [I]): the range outside which the functions end, or are no longer typical
    points  [P, I]: values that need a row of their own, such as every knot
    """

    core: tuple[Array, Array]
    outer: tuple[Array, Array]
    points: Array


class Basis(Protocol):
    """K functions of one number, shared by all edges of a source. A class may have plain attributes in place of the
    properties: `kind = "gaussian"`. Members with a value here are those of most bases."""

    __slots__ = ()

    @property
    def kind(self) -> str:
        """The name of the kind in the manifest and in DescribeModel, such as "bspline"."""

    @property
    def functions(self) -> int:
        """K, the number of functions."""

    @property
    def sources(self) -> int | None:
        """The number of sources of the basis, or None for any."""
        return None

    @property
    def compact(self) -> bool:
        """Whether every function is zero outside `support().outer` and for non-finite values; then the input of `emit`
        has no NaN. Other bases follow IEEE arithmetic: NaN for NaN."""
        return False

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], or [B, I] if K is 1."""

    def emitted_scale(self, g: Graph) -> float:
        """The factor that `emit` leaves to the coefficients: evaluate == factor * emit."""
        return 1.0

    def support(self, sources: int) -> Support:
        """The input range of the basis, for each of so many sources."""

    def parameters(self) -> dict[str, str]:
        """Parameters of the basis as text, for the manifest."""

    def knots(self) -> Array:
        """The T knots, centers or points of each source, for plots: [I, T], or [1, T] if all sources share them, or
        [0, 0] if there are none. `kanexport/shared/grids.py` decides which of them bound the grid; it treats an
        unknown kind as centers."""
        return np.zeros((0, 0))
