"""From the convolutions that a module ran to layers: whose functions they convolve, and what is added up."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan
from kanexport.form.ir import BasisTerm, Layer
from kanexport.hybrid.capture import Call
from kanexport.hybrid.conv_functions import Functions, laid_out
from kanexport.hybrid.conv_geometry import Geometry
from kanexport.hybrid.conv_layer import ConvLayer, PlaceBasis
from kanexport.hybrid.conv_watch import Convolution, Form, Ordinary, Watch

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

MOST_LAYERS = 64  # of one module: groups
MOST_NUMBERS = 16_000_000  # of one layer's weights, as float64
LEAST = 2  # functions a channel: with one it is an ordinary convolution of something


@dataclass(frozen=True, slots=True, eq=False)
class Convolved:
    """All layers of a module. `count`: F, of all functions of a place; `traced`: their graphs by type, once they
    are made."""

    parts: tuple[ConvLayer, ...]
    count: int
    traced: dict[str, bytes] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Which have nothing to do with one another."""
        return tuple(part.layer for part in self.parts)

    def widths(self) -> tuple[int, ...]:
        """Of what each layer is given."""
        return tuple(part.layer.sources for part in self.parts)

    def vectors(self, x: Array) -> list[Array]:
        """What the module is given [B, C, *picture] to what each layer is given [B, *positions, I]."""
        return [part.vectors(x) for part in self.parts]


def read(call: Call, watch: Watch) -> Convolved:
    """The layers of a module from the convolutions that it ran for a call. Raises InvalidKan where it is none of
    KAN convolutions."""
    convolutions = tuple(one if one.functions.ndim == call.x.ndim else one.folded() for one in watch.seen)
    starts = np.cumsum([0, *(one.weight.shape[1] * one.groups for one in convolutions)])
    if starts[-1] < LEAST * call.x.shape[1]:
        raise Ordinary("convolves no more functions than it has channels")
    functions = Functions(call, tuple(one.number for one in convolutions), call.x.shape[1])
    owner = _owner(functions, starts)
    forms = Form.joined([result.form for result in watch.results])
    zero = functions.evaluate(np.zeros((1, functions.channels)))[0]
    shared = _Shared(functions, owner, zero, forms, convolutions, starts)
    alike = shared.alike()
    if len(alike) > MOST_LAYERS:
        raise InvalidKan(f"has more than {MOST_LAYERS} groups")
    return Convolved(tuple(shared.layer(results) for results in alike), len(owner))


def _owner(functions: Functions, starts: Numbers) -> Numbers:
    """[F]: the channel of each function, -1 for a constant. Raises Ordinary."""
    owner = functions.owners()
    if starts[-1] != len(owner):
        raise Ordinary("has other functions in one place than in a picture")
    owner = np.concatenate([laid_out(owner[low:high]) for low, high in itertools.pairwise(starts)])
    functions.require_apart(owner)
    return owner


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """What the layers of a module are made of. `owner` [F]: channels, -1 for a constant; `zero` [F]: values at zero;
    `starts`: of each convolution's functions among all."""

    functions: Functions
    owner: Numbers
    zero: Array
    forms: Form
    convolutions: tuple[Convolution, ...]
    starts: Numbers

    def alike(self) -> list[Numbers]:
        """The results that are made of the same functions, which make one layer: where others reach, 0 * NaN is NaN."""
        made = np.zeros((len(self.forms.constant), len(self.owner)), dtype=bool)
        for at in self.forms.weights:
            made[:, self._part(at)] = self._reached(at)
        _, kind = np.unique(made, axis=0, return_inverse=True)
        return sorted((np.flatnonzero(kind == one) for one in range(kind.max() + 1)), key=lambda found: int(found[0]))

    def layer(self, results: Numbers) -> ConvLayer:
        """The layer of results that are made of the same functions."""
        used = [at for at in self.forms.weights if self._reached(at)[results].any()]
        geometries = {self.convolutions[at].geometry for at in used}
        if len(geometries) != 1:
            raise Ordinary("adds up convolutions of different shapes")
        (geometry,) = geometries
        reached = [np.flatnonzero(self._reached(at)[results].any(axis=0)) + self.starts[at] for at in used]
        basis = self._basis(np.concatenate(reached), geometry, len(results))
        weights = np.zeros((len(results), len(self.owner) + 1, geometry.places))  # the last one of no function
        for at in used:
            dense = self.convolutions[at].dense()
            mixed = self.forms.weights[at][results] @ dense.reshape(len(dense), -1)
            weights[:, self._part(at)] = mixed.reshape(len(results), *dense.shape[1:])
        return self._padded(basis, geometry, results, weights)

    def _padded(self, basis: PlaceBasis, geometry: Geometry, results: Numbers, weights: Array) -> ConvLayer:
        """The layer, with sources that tell what lies in the picture where its constants and values at zero
        do not hold outside. weights: [m, F + 1, P]"""
        spread = weights[:, basis.columns]  # [m, C, K, P]
        coef = spread.transpose(1, 3, 0, 2).reshape(-1, len(results), basis.functions)
        bias = self.forms.constant[results].copy()
        if geometry.has_zeros and (weights[:, :-1].any(axis=(0, 2)) & (self.zero != 0)).any():
            basis = replace(basis, zero=np.append(self.zero, 0.0)[basis.columns])
            there = np.zeros((geometry.places, *coef.shape[1:]))
            there[:, :, 0] = np.einsum("mfp,f->pm", weights[:, :-1], self.zero)
            coef = np.concatenate([coef, there])
        else:
            constant = np.flatnonzero(self.owner < 0)
            bias += np.einsum("mfp,f->m", weights[:, constant], self.zero[constant])
        shape = coef.shape[:2]
        layer = Layer((BasisTerm(basis, coef),), np.ones(shape), bias, np.zeros(shape, dtype=bool))
        return ConvLayer(layer, basis, geometry, results)

    def _part(self, at: int) -> slice:
        return slice(self.starts[at], self.starts[at + 1])

    def _reached(self, at: int) -> npt.NDArray[np.bool_]:
        """[m, C]: which results are made of which of a convolution's functions."""
        return np.asarray((self.forms.weights[at] != 0) @ self.convolutions[at].connected())

    def _basis(self, used: Numbers, geometry: Geometry, results: int) -> PlaceBasis:
        """Of some of the functions."""
        channels = np.unique(self.owner[used])
        by_channel = [used[self.owner[used] == channel] for channel in channels if channel >= 0]
        if not by_channel:
            raise Ordinary("convolves what does not depend on its input")
        columns = np.full((len(by_channel), max(map(len, by_channel))), -1)
        for row, mine in zip(columns, by_channel, strict=True):
            row[: len(mine)] = mine
        if columns.size * geometry.places * results > MOST_NUMBERS:
            raise InvalidKan(f"has more than {MOST_NUMBERS} weights")
        return PlaceBasis(self.functions, channels[channels >= 0], columns, geometry.places)
