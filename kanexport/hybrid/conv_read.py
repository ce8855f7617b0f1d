"""From the convolutions that a module ran to layers: whose functions they convolve, and what is added up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan
from kanexport.form.ir import BasisTerm, Layer
from kanexport.hybrid.capture import Call
from kanexport.hybrid.conv_functions import Functions, Source, laid_out
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
    """All layers of a module that take their sources from one place: from what the module is given, or from what
    a module inside of it gives, as `after` says. `count`: F, of all functions there; `traced`: their graphs by
    type, once they are made."""

    parts: tuple[ConvLayer, ...]
    count: int
    source: Source
    traced: dict[str, bytes] = field(default_factory=dict)

    @property
    def after(self) -> bool:
        """Whether it is what the module gives that is looked at."""
        return self.source.module is not None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Which have nothing to do with one another."""
        return tuple(part.layer for part in self.parts)

    def widths(self) -> tuple[int, ...]:
        """Of what each layer is given."""
        return tuple(part.layer.sources for part in self.parts)

    def given(self, call: Call) -> Array:
        """What a call gives to the functions, [B, C, *picture]."""
        return call.y if self.after else call.x

    def vectors(self, call: Call) -> list[Array]:
        """What a call gives to each layer, [B, *positions, I]."""
        return [part.vectors(self.given(call)) for part in self.parts]


def read(call: Call, watch: Watch, sources: Sequence[Source]) -> list[Convolved]:
    """The layers of a module from the convolutions that it ran for a call, by the source that they begin from. Raises
    InvalidKan where it is none of KAN convolutions."""
    convolutions = [one if one.functions.ndim == call.x.ndim else one.folded() for one in watch.seen]
    forms = Form.joined([result.form for result in watch.results])
    origins = [_Origin.of(functions, mine) for functions, mine in _assigned(call, convolutions, sources)]
    shared = _Shared(forms, tuple(origins))
    alike = shared.alike()
    if len(alike) > MOST_LAYERS:
        raise InvalidKan(f"has more than {MOST_LAYERS} groups")
    if not alike:
        raise Ordinary("convolves no more functions than it has channels")
    found = ((origin, shared.layers(origin, alike)) for origin in origins)
    return [Convolved(layers, len(origin.owner), origin.functions.source) for origin, layers in found if layers]


def _assigned(
    call: Call, convolutions: Sequence[Convolution], sources: Sequence[Source]
) -> Iterator[tuple[Functions, dict[int, Convolution]]]:
    """The convolutions of functions of each source, by their place among all: of the last source that changes them."""
    waiting = dict(enumerate(convolutions))
    for source in reversed(sources[1:]):
        moved = _functions(call, source, waiting).moved()
        ends = np.cumsum([0, *(one.count for one in waiting.values())])
        if len(moved) != ends[-1]:
            raise Ordinary("has other functions in one place than in a picture")
        mine = [at for at, low, high in zip(waiting, ends, ends[1:], strict=False) if moved[low:high].any()]
        found = {at: waiting.pop(at) for at in mine}
        if found:
            yield _functions(call, source, found), found
        if not waiting:
            return
    yield _functions(call, sources[0], waiting), waiting


def _functions(call: Call, source: Source, convolutions: Mapping[int, Convolution]) -> Functions:
    return Functions(call, source, tuple(one.number for one in convolutions.values()))


@dataclass(frozen=True, slots=True, eq=False)
class _Origin:
    """A source and the convolutions of its functions, by their place among all. `owner` [F]: channels, -1 for a
    constant; `zero` [F]: values at zero; `starts`: of each convolution's functions among these."""

    functions: Functions
    convolutions: dict[int, Convolution]
    owner: Numbers
    zero: Array
    starts: dict[int, int]

    @classmethod
    def of(cls, functions: Functions, convolutions: dict[int, Convolution]) -> _Origin:
        """Raises Ordinary."""
        starts = [0, *itertools.accumulate(one.count for one in convolutions.values())]
        owner = functions.owners()
        if starts[-1] != len(owner):
            raise Ordinary("has other functions in one place than in a picture")
        owner = np.concatenate([laid_out(owner[low:high]) for low, high in itertools.pairwise(starts)])
        functions.require_apart(owner)
        zero = functions.evaluate(np.zeros((1, functions.source.channels)))[0]
        return cls(functions, convolutions, owner, zero, dict(zip(convolutions, starts, strict=False)))

    def part(self, at: int) -> slice:
        return slice(self.starts[at], self.starts[at] + self.convolutions[at].count)

    def made(self, forms: Form) -> npt.NDArray[np.bool_]:
        """[m, F]: which results are made of which functions."""
        made = np.zeros((len(forms.constant), len(self.owner)), dtype=bool)
        for at, one in self.convolutions.items():
            if at in forms.weights:
                made[:, self.part(at)] = (forms.weights[at] != 0) @ one.connected()
        return made

    def reached(self, forms: Form, results: Numbers) -> Numbers:
        """The functions that some results are made of."""
        return np.flatnonzero(self.made(forms)[results].any(axis=0))

    def has_several(self, used: Numbers) -> bool:
        """Whether some functions are more than one for each channel."""
        return len(used) >= LEAST * max(1, len(np.unique(self.owner[used])))


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """What the layers of a module are made of."""

    forms: Form
    origins: tuple[_Origin, ...]

    def alike(self) -> list[Numbers]:
        """The results that are made of the same functions, which make one layer, because 0 * NaN is NaN; in their
        order, and without ordinary convolutions."""
        made = np.concatenate([origin.made(self.forms) for origin in self.origins], axis=1)
        _, kind = np.unique(made, axis=0, return_inverse=True)
        groups = [np.flatnonzero(kind == one) for one in range(kind.max() + 1)]
        several = [
            group
            for group in groups
            if any(origin.has_several(origin.reached(self.forms, group)) for origin in self.origins)
        ]
        return sorted(several, key=lambda found: int(found[0]))

    def layers(self, origin: _Origin, alike: Sequence[Numbers]) -> tuple[ConvLayer, ...]:
        """Those of one source."""
        mine = (results for results in alike if len(origin.reached(self.forms, results)))
        return tuple(self.layer(origin, results) for results in mine)

    def layer(self, origin: _Origin, results: Numbers) -> ConvLayer:
        """The layer of one source and of results that are made of the same functions."""
        used = [at for at in origin.convolutions if at in self.forms.weights and self.forms.weights[at][results].any()]
        geometries = {origin.convolutions[at].geometry for at in used}
        if len(geometries) != 1:
            raise Ordinary("adds up convolutions of different shapes")
        (geometry,) = geometries
        basis = _basis(origin, origin.reached(self.forms, results), geometry, len(results))
        weights = np.zeros((len(results), len(origin.owner) + 1, geometry.places))  # the last one of no function
        for at in used:
            dense = origin.convolutions[at].dense()
            mixed = self.forms.weights[at][results] @ dense.reshape(len(dense), -1)
            weights[:, origin.part(at)] = mixed.reshape(len(results), *dense.shape[1:])
        first = next(one for one in self.origins if len(one.reached(self.forms, results)))
        constant = self.forms.constant[results] * (origin is first)
        return _padded(origin, basis, geometry, results, weights, constant)


def _basis(origin: _Origin, used: Numbers, geometry: Geometry, results: int) -> PlaceBasis:
    """Of some of the functions."""
    channels = np.unique(origin.owner[used])
    channels = channels[channels >= 0]
    if not len(channels):
        raise Ordinary("convolves what does not depend on its input")
    by_channel = [used[origin.owner[used] == channel] for channel in channels]
    columns = np.full((len(channels), max(map(len, by_channel))), -1)
    for row, mine in zip(columns, by_channel, strict=True):
        row[: len(mine)] = mine
    if columns.size * geometry.places * results > MOST_NUMBERS:
        raise InvalidKan(f"has more than {MOST_NUMBERS} weights")
    return PlaceBasis(origin.functions, channels, columns, geometry.places)


def _padded(
    origin: _Origin, basis: PlaceBasis, geometry: Geometry, results: Numbers, weights: Array, constant: Array
) -> ConvLayer:
    """The layer, with sources that tell what lies in the picture where its constants and values at zero
    do not hold outside. weights: [m, F + 1, P]"""
    spread = weights[:, basis.columns]  # [m, C, K, P]
    coef = spread.transpose(1, 3, 0, 2).reshape(-1, len(results), basis.functions)
    if geometry.has_zeros and (weights[:, :-1].any(axis=(0, 2)) & (origin.zero != 0)).any():
        basis = replace(basis, zero=np.append(origin.zero, 0.0)[basis.columns])
        there = np.zeros((geometry.places, *coef.shape[1:]))
        there[:, :, 0] = np.einsum("mfp,f->pm", weights[:, :-1], origin.zero)
        coef = np.concatenate([coef, there])
    else:
        alone = np.flatnonzero(origin.owner < 0)
        constant = constant + np.einsum("mfp,f->m", weights[:, alone], origin.zero[alone])
    shape = coef.shape[:2]
    layer = Layer((BasisTerm(basis, coef),), np.ones(shape), constant, np.zeros(shape, dtype=bool))
    return ConvLayer(layer, basis, geometry, results)
