"""A KAN convolution as layers: every source is a channel at one place of the kernel, every position a vector.

    y_o(position) = bias_o + sum over channels c and places p of phi_cpo(x_c(position + p))
    phi_cpo(x) = sum_k w_okcp f_ck(x)

Where padding puts zeros after the functions, a place outside the picture contributes 0 and not phi(0). Then

    y_o = bias_o + sum_cp (phi_cpo(x) - phi_cpo(0)) + sum_p inside_p * sum_c phi_cpo(0)

with x = 0 outside: P more sources say whether a place lies inside the picture, 1 or 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanexport.bases import Support
from kanexport.errors import InvalidKan
from kanexport.form.ir import Layer
from kanexport.hybrid.conv_functions import Functions
from kanexport.hybrid.conv_geometry import Geometry
from kanexport.hybrid.sampled import SAMPLED

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

POINTS = 9


@dataclass(frozen=True, slots=True, eq=False)
class PlaceBasis:
    """The K functions of each source of a convolution, less their values at `zero` [C, K] where these are given.

    `channels` [C]: which of the module's; `columns` [C, K]: which of all functions, -1 where there are fewer;
    `places`: P.
    """

    all: Functions
    channels: Numbers
    columns: Numbers
    places: int
    zero: Array | None = None

    kind = SAMPLED
    compact = False

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
        row = np.zeros((len(given), self.all.channels))
        row[:, self.channels] = given
        values = self.all.evaluate(row)
        values = np.concatenate([values, np.zeros((len(values), 1))], axis=1)
        return np.asarray(values[:, self.columns])

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """There are no operators of ours: torch.onnx writes this graph."""
        raise InvalidKan("a layer that is known by its answers has no operators of ours")

    def emitted_scale(self, g: Graph) -> float:
        """1: nothing is left to the coefficients."""
        return 1.0

    def support(self, sources: int) -> Support:
        """What was seen, and four times as much."""
        one = np.full(sources, self.all.seen)
        return Support((-one, one), (-4 * one, 4 * one), np.linspace(-one, one, POINTS))

    def parameters(self) -> dict[str, str]:
        """How the sources lie."""
        own = f"channel * {self.places} + place of the kernel"
        more = f"{len(self.channels) * self.places} + place: 1 inside the picture, 0 outside"
        return {"source": f"{own}; {more}" if self.inside else own}

    def knots(self) -> Array:
        """[0, 0]: there are none."""
        return np.zeros((0, 0))


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
