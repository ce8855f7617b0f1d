"""Layers from the convolutions that a module ran: their functions, and the sums of their results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis, Support
from kanexport.errors import LayerSkipped
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.torch_export.capture import Call
from kanexport.torch_export.conv_capture import (
    Convolution,
    Form,
    Functions,
    Geometry,
    Ordinary,
    Source,
    Watch,
    channel_layout,
)
from kanexport.torch_export.sampled_layer import NO_OPERATORS, SAMPLED

if TYPE_CHECKING:
    from kanexport.graph.builder import Graph, Value


Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

MOST_LAYERS = 64  # of one module: groups
MOST_NUMBERS = 16_000_000  # of one layer's weights, as float64
LEAST = 2  # functions a channel: with one it is an ordinary convolution of something


@dataclass(frozen=True, slots=True, eq=False)
class Convolved:
    """All layers of a module that take their sources from one place.

    parts   layers
    count   F, the number of all functions at that place
    source  place: the input of the module, or the output of a module inside of it
    traced  graphs of the functions by type, once they are made
    """

    parts: tuple[ConvLayer, ...]
    count: int
    source: Source
    traced: dict[str, bytes] = field(default_factory=dict)

    @property
    def after(self) -> bool:
        """Whether the functions are those of the output of the module."""
        return self.source.module is not None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, which are independent of each other."""
        return tuple(part.layer for part in self.parts)

    def widths(self) -> tuple[int, ...]:
        """The number of sources of each layer."""
        return tuple(part.layer.sources for part in self.parts)

    def pictures(self, call: Call) -> Array:
        """The input of the functions in a call, [B, C, *picture]."""
        return call.y if self.after else call.x

    def vectors(self, call: Call) -> list[Array]:
        """The input of each layer in a call, [B, *positions, I]."""
        return [part.vectors(self.pictures(call)) for part in self.parts]


def read(call: Call, watch: Watch, sources: Sequence[Source]) -> list[Convolved]:
    """The layers of a module from the convolutions that it ran in a call, by the source from which they begin.
    Raises InvalidKan if they are not KAN convolutions."""
    convolutions = [
        convolution if convolution.functions.ndim == call.x.ndim else convolution.folded() for convolution in watch.seen
    ]
    forms = Form.joined([result.form for result in watch.results])
    origins = [_Origin.of(functions, mine) for functions, mine in _assigned(call, convolutions, sources)]
    groups = _result_groups(forms, origins)
    if len(groups) > MOST_LAYERS:
        raise LayerSkipped(f"has more than {MOST_LAYERS} groups")
    if not groups:
        raise Ordinary("convolves no more functions than it has channels")
    convolved = []
    for at, origin in enumerate(origins):
        layers = []
        for results in groups:
            if len(origin.reached(forms, results)):
                # The constant of the results belongs to the layer of the first source.
                is_first = not any(len(other.reached(forms, results)) for other in origins[:at])
                layers.append(_layer(origin, forms, results, constant=is_first))
        if layers:
            convolved.append(Convolved(tuple(layers), len(origin.owner), origin.functions.source))
    return convolved


def _result_groups(forms: Form, origins: Sequence[_Origin]) -> list[Numbers]:
    """The results that depend on the same functions and therefore make one layer, because 0 * NaN is NaN; in their
    order, and without ordinary convolutions."""
    connected = np.concatenate([origin.connections(forms) for origin in origins], axis=1)
    _, kind = np.unique(connected, axis=0, return_inverse=True)
    groups = [np.flatnonzero(kind == number) for number in range(kind.max() + 1)]
    several = [results for results in groups if any(origin.has_several(forms, results) for origin in origins)]
    return sorted(several, key=lambda results: int(results[0]))


def _assigned(
    call: Call, convolutions: Sequence[Convolution], sources: Sequence[Source]
) -> Iterator[tuple[Functions, dict[int, Convolution]]]:
    """The convolutions of functions of each source, by their place among all; a function belongs to the last source
    that changes it."""
    waiting = dict(enumerate(convolutions))
    for source in reversed(sources[1:]):
        moved = _functions(call, source, waiting).source_dependent()
        ends = np.cumsum([0, *(convolution.count for convolution in waiting.values())])
        if len(moved) != ends[-1]:
            raise Ordinary("has other functions in one place than in a picture")
        mine = [at for at, low, high in zip(waiting, ends, ends[1:], strict=False) if moved[low:high].any()]
        taken = {at: waiting.pop(at) for at in mine}
        if taken:
            yield _functions(call, source, taken), taken
        if not waiting:
            return
    yield _functions(call, sources[0], waiting), waiting


def _functions(call: Call, source: Source, convolutions: Mapping[int, Convolution]) -> Functions:
    return Functions(call, source, tuple(convolution.number for convolution in convolutions.values()))


@dataclass(frozen=True, slots=True, eq=False)
class _Origin:
    """A source and the convolutions of its functions, by their place among all.

    owner   channel of each function [F], -1 for a constant
    zero    values of the functions at zero [F]
    starts  first function of each convolution among these
    """

    functions: Functions
    convolutions: dict[int, Convolution]
    owner: Numbers
    zero: Array
    starts: dict[int, int]

    @classmethod
    def of(cls, functions: Functions, convolutions: dict[int, Convolution]) -> _Origin:
        """Raises Ordinary."""
        starts = [0, *itertools.accumulate(convolution.count for convolution in convolutions.values())]
        owner = functions.owners()
        if starts[-1] != len(owner):
            raise Ordinary("has other functions in one place than in a picture")
        owner = np.concatenate([channel_layout(owner[low:high]) for low, high in itertools.pairwise(starts)])
        functions.require_independent(owner)
        zero = functions.evaluate(np.zeros((1, functions.source.channels)))[0]
        return cls(functions, convolutions, owner, zero, dict(zip(convolutions, starts, strict=False)))

    def slice_of(self, at: int) -> slice:
        return slice(self.starts[at], self.starts[at] + self.convolutions[at].count)

    def connections(self, forms: Form) -> npt.NDArray[np.bool_]:
        """[m, F]: the functions on which each result depends."""
        connected = np.zeros((len(forms.constant), len(self.owner)), dtype=bool)
        for at, convolution in self.convolutions.items():
            if at in forms.weights:
                connected[:, self.slice_of(at)] = (forms.weights[at] != 0) @ convolution.connected()
        return connected

    def reached(self, forms: Form, results: Numbers) -> Numbers:
        """The functions on which some results depend."""
        return np.flatnonzero(self.connections(forms)[results].any(axis=0))

    def has_several(self, forms: Form, results: Numbers) -> bool:
        """Whether some results depend on more functions than one per channel; an ordinary convolution does not."""
        used = self.reached(forms, results)
        return len(used) >= LEAST * max(1, len(np.unique(self.owner[used])))

    def by_channel(self, functions: Numbers) -> tuple[Numbers, Numbers]:
        """The channels [C] of some functions, and the functions of each [C, K], -1 where there are fewer."""
        channels = np.unique(self.owner[functions])
        channels = channels[channels >= 0]
        several = [functions[self.owner[functions] == channel] for channel in channels]
        columns = np.full((len(channels), max(map(len, several), default=0)), -1)
        for row, mine in zip(columns, several, strict=True):
            row[: len(mine)] = mine
        return channels, columns

    def mixed(self, forms: Form, results: Numbers, used: Sequence[int], places: int) -> Array:
        """[m, F + 1, P]: the weight of each function in some results, by the convolutions that these use. The last
        function is none."""
        weights = np.zeros((len(results), len(self.owner) + 1, places))
        for at in used:
            dense = self.convolutions[at].dense()
            product = forms.weights[at][results] @ dense.reshape(len(dense), -1)
            weights[:, self.slice_of(at)] = product.reshape(len(results), *dense.shape[1:])
        return weights


def _layer(origin: _Origin, forms: Form, results: Numbers, *, constant: bool) -> ConvLayer:
    """The layer of one source and of results that depend on the same functions; with their constant if `constant`.
    Raises InvalidKan."""
    used = [at for at in origin.convolutions if at in forms.weights and forms.weights[at][results].any()]
    geometries = {origin.convolutions[at].geometry for at in used}
    if len(geometries) != 1:
        raise Ordinary("adds up convolutions of different shapes")
    (geometry,) = geometries
    functions = origin.reached(forms, results)
    channels, columns = origin.by_channel(functions)
    if not len(channels):
        raise Ordinary("convolves values that do not depend on its input")
    if columns.size * geometry.places * len(results) > MOST_NUMBERS:
        raise LayerSkipped(f"has more than {MOST_NUMBERS} weights")
    weights = origin.mixed(forms, results, used, geometry.places)  # [m, F + 1, P]
    coef = weights[:, columns].transpose(1, 3, 0, 2).reshape(-1, len(results), columns.shape[1])  # [C * P, m, K]
    bias, zero = forms.constant[results] * constant, None
    if geometry.has_zeros and (weights[:, :-1].any(axis=(0, 2)) & (origin.zero != 0)).any():
        # Constants and values at zero do not apply outside of the picture: further sources mark its inside.
        zero = np.append(origin.zero, 0.0)[columns]
        there = np.zeros((geometry.places, *coef.shape[1:]))
        there[:, :, 0] = np.einsum("mfp,f->pm", weights[:, :-1], origin.zero)
        coef = np.concatenate([coef, there])
    else:
        alone = np.flatnonzero(origin.owner < 0)
        bias = bias + np.einsum("mfp,f->m", weights[:, alone], origin.zero[alone])
    basis, shape = PlaceBasis(origin.functions, channels, columns, geometry.places, zero), coef.shape[:2]
    layer = Layer((BasisTerm(basis, coef),), np.ones(shape), bias, np.zeros(shape, dtype=bool))
    return ConvLayer(layer, basis, geometry, results)


POINTS = 9  # of the range of the example


@dataclass(frozen=True, eq=False)
class PlaceBasis(Basis):
    """The K functions of each source of a convolution, which the module computes.

    channels  channels [C] of the module
    columns   numbers [C, K] among all functions, -1 where there are fewer
    places    P, the number of places of the kernel
    zero      values [C, K] at zero, which are subtracted; None: nothing is subtracted
    start     the first of these sources among those of a layer
    total     the number of sources of that layer; all functions of its other sources are zero
    """

    kind = SAMPLED

    all: Functions
    channels: Numbers
    columns: Numbers
    places: int
    zero: Array | None = None
    start: int = 0
    total: int | None = None

    @property
    def inside(self) -> bool:
        """Whether further sources mark the inside of the picture."""
        return self.zero is not None

    @property
    def functions(self) -> int:
        """K"""
        return int(self.columns.shape[1])

    @property
    def own(self) -> int:
        """C * P, and P more that mark the inside."""
        return len(self.channels) * self.places + self.places * self.inside

    @property
    def sources(self) -> int:
        """I, all sources of the layer."""
        return self.own if self.total is None else self.total

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64; while the module is lent."""
        values = np.zeros((len(x), self.functions, self.sources))
        mine = slice(self.start, self.start + self.own)
        values[:, :, mine] = self._of_sources(x[:, mine])
        return values

    def _of_sources(self, x: Array) -> Array:
        rows, channels, own = len(x), len(self.channels), len(self.channels) * self.places
        flat = x[:, :own].reshape(rows, channels, self.places).transpose(0, 2, 1).reshape(-1, channels)
        values = self.of_channels(flat)
        if self.zero is not None:
            values = np.where(flat[:, :, None] == 0, 0.0, values - self.zero)
        values = values.reshape(rows, self.places, channels, -1).transpose(0, 3, 2, 1)
        values = values.reshape(rows, self.functions, own)
        if not self.inside:
            return np.asarray(values)
        first = np.zeros((rows, self.functions, self.places))
        first[:, 0] = x[:, own:]
        return np.concatenate([values, first], axis=2)

    def of_channels(self, x: Array) -> Array:
        """[R, C] -> [R, C, K]"""
        row = np.zeros((len(x), self.all.source.channels))
        row[:, self.channels] = x
        values = self.all.evaluate(row)
        values = np.concatenate([values, np.zeros((len(values), 1))], axis=1)
        return np.asarray(values[:, self.columns])

    def support(self, sources: int) -> Support:
        """The range of the example, and a range four times as large."""
        reach = np.full(sources, self.all.source.seen)
        return Support((-reach, reach), (-4 * reach, 4 * reach), np.linspace(-reach, reach, POINTS))

    def parameters(self) -> dict[str, str]:
        """The order of the sources."""
        own = f"channel * {self.places} + place of the kernel"
        more = f"{len(self.channels) * self.places} + place: 1 inside the picture, 0 outside"
        return {"source": f"{own}; {more}" if self.inside else own}

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """Raises an error: torch.onnx writes this graph, not kanserve."""
        raise LayerSkipped(NO_OPERATORS)


@dataclass(frozen=True, slots=True, eq=False)
class ConvLayer:
    """One layer of the convolutions of a module: the channels of its sources [C], and the numbers of its results
    [m]."""

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


def sum_layers(layers: Sequence[ConvLayer]) -> Kan:
    """Layers with results that are added, as one: the sources of each after those of the one before it."""
    starts = np.cumsum([0, *(part.layer.sources for part in layers)])
    shape = (int(starts[-1]), layers[0].layer.destinations)
    terms = []
    for start, part in zip(starts, layers, strict=False):
        (term,) = part.layer.terms
        assert isinstance(term, BasisTerm)
        coef = np.zeros((*shape, term.functions))
        coef[start : start + part.layer.sources] = term.coef
        terms.append(BasisTerm(replace(part.basis, start=int(start), total=shape[0]), coef))
    bias = np.asarray(np.sum([part.layer.bias for part in layers], axis=0))
    return Kan(shape[0], (Layer(tuple(terms), np.ones(shape), bias, np.zeros(shape, dtype=bool)),))
