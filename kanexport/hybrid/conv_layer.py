"""A KAN convolution as layers: every source is a channel at one place of the kernel, every position a vector.

    y_o(position) = bias_o + sum over channels c and places p of phi_cpo(x_c(position + p))
    phi_cpo(x) = sum_k w_okcp f_ck(x)

Where padding puts zeros after the functions, a place outside the picture contributes 0 and not phi(0). Then

    y_o = bias_o + sum_cp (phi_cpo(x) - phi_cpo(0)) + sum_p inside_p * sum_c phi_cpo(0)

with x = 0 outside: P more sources say whether a place lies inside the picture, 1 or 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanexport.bases import Support
from kanexport.errors import InvalidKan
from kanexport.form.ir import BasisTerm, Kan, Layer
from kanexport.hybrid.conv_functions import Functions
from kanexport.hybrid.conv_geometry import Geometry
from kanexport.hybrid.sampled import SAMPLED

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

POINTS = 9


class _OfModule:
    """What the bases below have in common: the module itself computes them."""

    kind = SAMPLED
    compact = False

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """There are no operators of ours: torch.onnx writes this graph."""
        raise InvalidKan("a layer that is known by its answers has no operators of ours")

    def emitted_scale(self, g: Graph) -> float:
        """1: nothing is left to the coefficients."""
        return 1.0

    def knots(self) -> Array:
        """[0, 0]: there are none."""
        return np.zeros((0, 0))


@dataclass(frozen=True, eq=False)
class PlaceBasis(_OfModule):
    """The K functions of each source of a convolution, less their values at `zero` [C, K] where these are given.

    `channels` [C]: which of the module's; `columns` [C, K]: which of all functions, -1 where there are fewer;
    `places`: P.
    """

    all: Functions
    channels: Numbers
    columns: Numbers
    places: int
    zero: Array | None = None

    @property
    def inside(self) -> bool:
        """Whether further sources tell what lies inside the picture."""
        return self.zero is not None

    @property
    def functions(self) -> int:
        """K"""
        return int(self.columns.shape[1])

    @property
    def sources(self) -> int:
        """C * P, and P more that say what lies inside."""
        return len(self.channels) * self.places + self.places * self.inside

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64; while the module is lent."""
        rows, own = len(x), len(self.channels) * self.places
        by_place = x[:, :own].reshape(rows, len(self.channels), self.places).transpose(0, 2, 1)
        given = by_place.reshape(-1, len(self.channels))
        values = self.of_channels(given)
        if self.zero is not None:
            values = np.where(given[:, :, None] == 0, 0.0, values - self.zero)
        values = values.reshape(rows, self.places, len(self.channels), -1).transpose(0, 3, 2, 1)
        values = values.reshape(rows, self.functions, own)
        if not self.inside:
            return np.asarray(values)
        first = np.zeros((rows, self.functions, self.places))
        first[:, 0] = x[:, own:]
        return np.concatenate([values, first], axis=2)

    def of_channels(self, given: Array) -> Array:
        """[R, C] -> [R, C, K]"""
        row = np.zeros((len(given), self.all.source.channels))
        row[:, self.channels] = given
        values = self.all.evaluate(row)
        values = np.concatenate([values, np.zeros((len(values), 1))], axis=1)
        return np.asarray(values[:, self.columns])

    def support(self, sources: int) -> Support:
        """What was seen, and four times as much."""
        one = np.full(sources, self.all.source.seen)
        return Support((-one, one), (-4 * one, 4 * one), np.linspace(-one, one, POINTS))

    def parameters(self) -> dict[str, str]:
        """How the sources lie."""
        own = f"channel * {self.places} + place of the kernel"
        more = f"{len(self.channels) * self.places} + place: 1 inside the picture, 0 outside"
        return {"source": f"{own}; {more}" if self.inside else own}


@dataclass(frozen=True, slots=True, eq=False)
class ConvLayer:
    """One layer of a module's convolutions: its sources' channels [C], and which of the results [m] it gives."""

    layer: Layer
    basis: PlaceBasis
    geometry: Geometry
    results: Numbers

    def vectors(self, x: Array) -> Array:
        """[B, all channels, *picture] -> [B, *positions, I]"""
        unfolded = self.geometry.unfold(x[:, self.basis.channels])
        if not self.basis.inside:
            return unfolded
        inside = self.geometry.inside(x.shape[2:])
        return np.concatenate([unfolded, np.broadcast_to(inside, (*unfolded.shape[:-1], inside.shape[-1]))], axis=-1)


@dataclass(frozen=True, eq=False)
class _Block(_OfModule):
    """A basis of some of all `sources`, from `start` on; of the others all functions are zero."""

    basis: PlaceBasis
    start: int
    sources: int

    @property
    def functions(self) -> int:
        """K"""
        return self.basis.functions

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64; while the module is lent."""
        values, mine = (
            np.zeros((len(x), self.functions, self.sources)),
            slice(self.start, self.start + self.basis.sources),
        )
        values[:, :, mine] = self.basis.evaluate(x[:, mine])
        return values

    def support(self, sources: int) -> Support:
        """As of any source."""
        return self.basis.support(sources)

    def parameters(self) -> dict[str, str]:
        """None."""
        return {}


def together(layers: Sequence[ConvLayer]) -> Kan:
    """Layers whose results are added, as one: the sources of each behind those of the one before it."""
    starts = np.cumsum([0, *(one.layer.sources for one in layers)])
    shape = (int(starts[-1]), layers[0].layer.destinations)
    terms = []
    for start, one in zip(starts, layers, strict=False):
        (term,) = one.layer.terms
        assert isinstance(term, BasisTerm)
        coef = np.zeros((*shape, term.functions))
        coef[start : start + one.layer.sources] = term.coef
        terms.append(BasisTerm(_Block(one.basis, int(start), shape[0]), coef))
    bias = np.asarray(np.sum([one.layer.bias for one in layers], axis=0))
    return Kan(shape[0], (Layer(tuple(terms), np.ones(shape), bias, np.zeros(shape, dtype=bool)),))
