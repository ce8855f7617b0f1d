"""Capture of the convolutions that a module runs: their functions, weights, and the results that it adds up.

KAN convolutions compute functions of every number by itself and convolve these with ordinary weights, in
one convolution or several whose results are added, joined or mixed by one of a single place. The exporter finds the
functions by running the module on pictures of one place, in which nothing is convolved. A function belongs to a channel
if nothing else of the place changes it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kanexport.errors import LayerSkipped
from kanexport.torch_export.borrowed_module import ForeignError, foreign_code, replaced
from kanexport.torch_export.capture import Call, array
from kanexport.verify.tolerances import magnitude

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.intp]
Mode = Literal["reflect", "edge", "wrap"]

ZEROS = "constant"  # outside is zero
MODES: dict[str, Mode] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # torch's words and numpy's


@dataclass(frozen=True, slots=True)
class Geometry:
    """The geometry of a convolution, by axis.

    pads  padding before and after each axis
    mode  values outside of the picture, ZEROS or one of MODES
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    mode: str = ZEROS

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Geometry:
        """The geometry from the arguments of torch functions: numbers, one per axis, or "same" and "valid"."""
        axes = len(kernel)
        strides, dilations = _each(stride, axes), _each(dilation, axes)
        if isinstance(padding, str):
            whole = [d * (k - 1) * (padding == "same") for d, k in zip(dilations, kernel, strict=True)]
            pads = tuple((n // 2, n - n // 2) for n in whole)
        else:
            pads = tuple((n, n) for n in _each(padding, axes))
        return cls(tuple(kernel), strides, dilations, pads)

    @property
    def is_one_place(self) -> bool:
        """Whether every position reads only its own place."""
        return all(k == 1 for k in (*self.kernel, *self.stride)) and not any(map(any, self.pads)) and self.mode == ZEROS

    @property
    def places(self) -> int:
        """P, the number of places of the kernel."""
        return math.prod(self.kernel)

    @property
    def has_zeros(self) -> bool:
        """Whether some position may read outside the picture, where all functions are zero."""
        return self.mode == ZEROS and any(map(any, self.pads))

    def padded(self, pads: Sequence[int], mode: str) -> Geometry:
        """The geometry with an earlier padding, in the order of `pad` of torch: the last axis first."""
        pairs = tuple(zip(pads[0::2], pads[1::2], strict=True))[::-1]
        return Geometry(self.kernel, self.stride, self.dilation, pairs, mode)

    def positions(self, picture: Sequence[int]) -> tuple[int, ...]:
        """The number of positions along each axis."""
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return tuple(
            (size + low + high - span) // stride + 1
            for size, (low, high), span, stride in zip(picture, self.pads, spans, self.stride, strict=True)
        )

    def index(self, picture: Sequence[int]) -> Places:
        """[L, P]: the number in a flat picture that each place of the kernel covers, at each position; -1 outside."""
        whole = np.arange(math.prod(picture), dtype=np.int64).reshape(picture)
        if self.mode == ZEROS:
            whole = np.pad(whole, self.pads, constant_values=-1)
        else:
            whole = np.pad(whole, self.pads, mode=MODES[self.mode])
        spans = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(whole, spans)
        strides = tuple(slice(None, None, stride) for stride in self.stride)
        steps = tuple(slice(None, None, dilation) for dilation in self.dilation)
        return np.ascontiguousarray(windows[(*strides, *steps)].reshape(-1, self.places))

    def unfold(self, x: Array) -> Array:
        """[B, C, *picture] -> [B, *positions, C * P], the places of a channel one after another; zero outside."""
        picture = x.shape[2:]
        flat = np.concatenate([x.reshape(*x.shape[:2], -1), np.zeros((*x.shape[:2], 1))], axis=2)
        values = flat[:, :, self.index(picture)].transpose(0, 2, 1, 3)  # [B, L, C, P]
        return np.asarray(values.reshape(len(x), *self.positions(picture), -1))

    def inside(self, picture: Sequence[int]) -> Array:
        """[*positions, P]: 1 if a place is in the picture, 0 outside."""
        there = (self.index(picture) >= 0).astype(np.float64)
        return there.reshape(*self.positions(picture), self.places)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    numbers = tuple(int(item) for item in value) if isinstance(value, Sequence) else (int(value),) * axes
    return numbers * axes if len(numbers) == 1 else numbers


CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
OTHERS = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
ADDS = (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__)
SAME = (torch.clone, torch.Tensor.clone, torch.Tensor.contiguous)
SQUEEZES = (torch.squeeze, torch.Tensor.squeeze)
JOINS = (torch.cat, torch.concat, torch.concatenate)


class Ordinary(LayerSkipped):
    """Error for a module that does not resemble a KAN convolution, so that no note is needed."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution of functions.

    number     position among the convolutions that the module ran
    functions  input [B, C, *picture]
    weight     [O, C / groups, *kernel]
    bias       [O]
    """

    number: int
    functions: torch.Tensor
    weight: Array
    bias: Array
    geometry: Geometry
    groups: int

    @property
    def count(self) -> int:
        """C, of its functions."""
        return int(self.weight.shape[1]) * self.groups

    def connected(self) -> npt.NDArray[np.bool_]:
        """[O, C]: the functions on which each result depends."""
        results, functions = len(self.weight), self.count
        group = np.arange(results) // (results // self.groups)
        return np.asarray(group[:, None] == np.arange(functions) // self.weight.shape[1])

    def folded(self) -> Convolution:
        """The convolution over one axis less, if the first one has only one position: its places become further
        functions."""
        own = self.geometry
        if own.mode != ZEROS or self.functions.shape[2] != own.kernel[0] or any(own.pads[0]):
            raise Ordinary("convolves along another axis")
        fewer = Geometry(own.kernel[1:], own.stride[1:], own.dilation[1:], own.pads[1:])
        return replace(self, weight=self.weight.reshape(len(self.weight), -1, *fewer.kernel), geometry=fewer)

    def dense(self) -> Array:
        """[O, C, P]"""
        flat = self.weight.reshape(*self.weight.shape[:2], -1)
        if self.groups == 1:
            return flat
        whole = np.zeros((len(flat), flat.shape[1] * self.groups, flat.shape[2]))
        whole[self.connected()] = flat.reshape(-1, flat.shape[2])
        return whole


@dataclass(frozen=True, slots=True)
class Form:
    """Channels [m] as a linear form of the results of convolutions.

    weights   weights [m, O] by the position of the convolution among those noted
    constant  constant [m] that is added
    """

    weights: dict[int, Array]
    constant: Array

    def plus(self, other: Form) -> Form:
        """The sum of both."""
        weights = dict(self.weights)
        for at, weight in other.weights.items():
            weights[at] = weights[at] + weight if at in weights else weight
        return Form(weights, self.constant + other.constant)

    def mixed(self, matrix: Array, bias: Array) -> Form:
        """The form after a convolution of one place with a matrix [new m, m]."""
        return Form({at: matrix @ weight for at, weight in self.weights.items()}, matrix @ self.constant + bias)

    @classmethod
    def joined(cls, forms: list[Form]) -> Form:
        """The channels of all forms, one after the other."""
        starts = np.cumsum([0, *(len(form.constant) for form in forms)])
        weights: dict[int, Array] = {}
        for start, form in zip(starts, forms, strict=False):
            for at, weight in form.weights.items():
                whole = weights.setdefault(at, np.zeros((starts[-1], weight.shape[1])))
                whole[start : start + len(weight)] += weight
        return cls(weights, np.concatenate([form.constant for form in forms]))


@dataclass
class Result:
    """A tensor that is a linear form of convolutions.

    numbers  its values
    version  version of the tensor, which changes in place increase
    used     whether a further result was made of it
    """

    value: torch.Tensor
    form: Form
    numbers: Array
    version: int
    used: bool = False


class Watch(TorchFunctionMode):
    """A context that records the convolutions of an ordinary run.

    seen     convolutions
    results  tensors that are made of their results
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Convolution] = []
        self.has_unknown = False  # something was convolved that is not looked into
        self._results: dict[int, Result] = {}
        self._padded: dict[int, tuple[torch.Tensor, torch.Tensor, tuple[int, ...], str]] = {}
        self._count = 0

    @property
    def results(self) -> list[Result]:
        """The results from which no further result was computed, in their order."""
        return [result for result in self._results.values() if not result.used]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The hook that torch calls in place of each of its functions."""
        kwargs = kwargs or {}
        y = func(*args, **kwargs)
        if func in CONVOLUTIONS:
            self._convolve(y, *args, **kwargs)
        elif func is functional.pad:
            self._pad(y, *args, **kwargs)
        elif func in OTHERS:
            self.has_unknown = True
        elif func in JOINS:
            self._join(y, *args, **kwargs)
        elif type(y) is torch.Tensor:
            self._follow(func, args, kwargs, y)
        return y

    def _known(self, value: Any) -> Result | None:
        result = self._results.get(id(value)) if type(value) is torch.Tensor else None
        return result if result is not None and result.version == value._version else None

    def _make(self, value: torch.Tensor, form: Form, *of: Result) -> None:
        for result in of:
            result.used = True
        self._results[id(value)] = Result(value, form, array(value), value._version)

    def _follow(self, func: Any, args: Any, kwargs: Any, y: torch.Tensor) -> None:
        """Record tensors that are computed from results: sums and copies."""
        known = [result for result in map(self._known, args) if result is not None]
        if not known:
            return
        if func in SAME or (func in SQUEEZES and args[1:] == (2,) and not kwargs):
            self._make(y, known[0].form, *known)
        elif func in ADDS and not kwargs and len(known) == 2 and all(part.value.shape == y.shape for part in known):
            self._make(y, known[0].form.plus(known[1].form), *known)

    def _join(self, y: torch.Tensor, tensors: Any, dim: int = 0, **_: Any) -> None:
        """Record results that are joined along the channels."""
        known = [result for result in map(self._known, tensors) if result is not None]
        if known and len(known) == len(tensors) and dim in (1, 1 - y.ndim):
            self._make(y, Form.joined([part.form for part in known]), *known)

    def _pad(self, y: torch.Tensor, x: torch.Tensor, pad: Any, mode: str = ZEROS, value: Any = None) -> None:
        """Record padding before a convolution."""
        pads = tuple(int(size) for size in pad)
        if (mode in MODES or (mode == ZEROS and not value)) and len(pads) == 2 * (y.ndim - 2):
            self._padded[id(y)] = (y, x, pads, mode)

    def _convolve(
        self,
        y: torch.Tensor,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        number, self._count = self._count, self._count + 1
        geometry = Geometry.of(tuple(weight.shape[2:]), stride, padding, dilation)
        values = array(weight)
        added = np.zeros(len(values)) if bias is None else array(bias)
        known = self._known(input)
        if known is not None and geometry.is_one_place and groups == 1:
            self._make(y, known.form.mixed(values.reshape(len(values), -1), added), known)
            return
        if id(input) in self._padded:
            _, input, pads, mode = self._padded[id(input)]
            self.has_unknown |= any(map(any, geometry.pads))  # padded twice
            geometry = geometry.padded(pads, mode)
        self._make(y, Form({len(self.seen): np.eye(len(values))}, added))
        self.seen.append(Convolution(number, input, values, added, geometry, groups))


class FunctionCapture(TorchFunctionMode):
    """A context without convolutions, in which rows of one place stay so.

    numbers    positions of the convolutions whose inputs are captured
    functions  inputs of these convolutions
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self.functions: list[torch.Tensor] = []
        self._numbers, self._count = numbers, 0

    @property
    def is_complete(self) -> bool:
        """Whether all of these convolutions occurred."""
        return len(self.functions) == len(self._numbers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The hook that torch calls in place of each of its functions."""
        kwargs = kwargs or {}
        if func is functional.pad:
            return args[0]
        if func not in CONVOLUTIONS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        if self._count in self._numbers:
            self.functions.append(x)
        self._count += 1
        return x.new_zeros((x.shape[0], weight.shape[0], *[1] * (x.ndim - 2)))


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.RMSNorm)
TRIES = (0.3, 1.0, 3.0)  # times what was seen: values that a channel is set to, to see what moves
MAGNITUDES = (0.1, 1.0, 10.0, 1e3, 1e6)
SPOILT, SPOILT_SHARE = (np.nan, np.inf, -np.inf), 0.3  # values, and their share of a row
MIXED = 4  # rows of each pair of magnitudes
NUMBERS = 8_000_000  # values of functions held at a time
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative: how far the same formula may be from itself


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The input of functions: the input of a module, or the output of an inner `module`.

    value   example [B, C, *picture]
    name    name of the module inside; empty for the input
    module  module inside; None for the input
    """

    value: Array
    name: str = ""
    module: nn.Module | None = None

    @property
    def channels(self) -> int:
        """C"""
        return int(self.value.shape[1])

    @property
    def seen(self) -> float:
        """The largest magnitude of the example."""
        return magnitude(self.value) or 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Functions:
    """All functions [F] of the channels [C] of one place. `numbers`: the convolutions that take them, in order."""

    call: Call
    source: Source
    numbers: tuple[int, ...]

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """[R, C] -> [R, F]. torch can trace it."""
        rows, axes = x.shape[0], [1] * (self.call.x.ndim - 2)
        pictures = x.reshape(rows, -1, *axes)
        whole = pictures if self.source.module is None else x.new_zeros((rows, self.call.x.shape[1], *axes))
        args, kwargs = self.call.arguments(whole)
        bare = FunctionCapture(self.numbers)
        # Run to its end where that can be: torch does not follow what is ended in the middle.
        try:
            with foreign_code(), replaced(self._others(pictures)), bare:
                self.call.module.forward(*args, **kwargs)
        except ForeignError as foreign:
            if not bare.is_complete:
                raise Ordinary("does not take pictures of one place") from foreign.error
        return torch.cat([functions.reshape(rows, -1) for functions in bare.functions], dim=1)

    def evaluate(self, x: Array) -> Array:
        """[R, C] -> [R, F], in chunks, while the module is lent. Raises Ordinary if it does not run."""
        with torch.no_grad():
            inputs = torch.from_numpy(x).to(self.call.dtype)
            first = array(self.of(inputs[:1]))
            each = max(1, NUMBERS // max(1, first.shape[1]))
            pieces = [array(self.of(inputs[at : at + each])) for at in range(1, len(x), each)]
        return np.concatenate([first, *pieces])

    def _others(self, pictures: torch.Tensor) -> Iterator[tuple[nn.Module, Any]]:
        """Replacements: the source module returns the given rows. Norms over a picture have no effect on one place;
        if one precedes a function, the comparison shows it."""

        def returning(part: nn.Module) -> Any:
            own = part.forward

            def forward(_: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
                if not isinstance(part, NORMS):
                    own(*args, **kwargs)  # its convolution is still recorded
                return pictures

            return forward

        for part in self.call.module.modules():
            if part is self.source.module:
                yield part, returning(part)
            elif isinstance(part, NORMS):
                yield part, lambda _, x, *args, **kwargs: x

    def source_dependent(self) -> npt.NDArray[np.bool_]:
        """[F]: the functions that the source changes."""
        rng = np.random.default_rng(0)
        values = [
            self.evaluate(scale * rng.uniform(-1, 1, size=(2, self.source.channels)))
            for scale in (*TRIES, self.source.seen)
        ]
        return np.asarray(np.any([self._differ(pair[1], pair[0]) for pair in values], axis=0))

    def owners(self) -> Numbers:
        """[F]: the only channel that changes each function, -1 if there is none. Raises Ordinary if several do."""
        rng = np.random.default_rng(0)
        base = rng.uniform(-1, 1, size=self.source.channels)
        owner = np.full(self.evaluate(base[None]).shape[1], -1)
        for scale in (*TRIES, *(self.source.seen * times for times in TRIES), np.nan):
            rows = np.repeat(base[None], self.source.channels + 1, axis=0)
            np.fill_diagonal(rows[1:], scale * rng.choice([-1.0, 1.0], size=self.source.channels))
            values = self.evaluate(rows)
            for channel, moved in enumerate(self._differ(values[1:], values[:1])):
                if (moved & ~np.isin(owner, (-1, channel))).any():
                    raise Ordinary("computes functions of several channels of a place")
                owner[moved] = channel
        return owner

    def require_independent(self, owner: Numbers) -> None:
        """Check that rows combined from two others have the functions of each, near and far, for any other values in
        the row. Raises Ordinary."""
        rng, constant = np.random.default_rng(1), self.evaluate(np.zeros((1, self.source.channels)))
        pairs = np.repeat(list(itertools.product((*MAGNITUDES, self.source.seen), repeat=2)), MIXED, axis=0)
        first, second = (scale[:, None] * rng.normal(size=(len(pairs), self.source.channels)) for scale in pairs.T)
        spoilt = rng.random(size=second.shape) < SPOILT_SHARE
        spoilt[::2] = False
        second[spoilt] = rng.choice(SPOILT, size=int(spoilt.sum()))
        mine = rng.random(second.shape) < 0.5
        a, b, both = (self.evaluate(rows) for rows in (first, second, np.where(mine, first, second)))
        expected = np.where(mine[:, owner], a, b)
        expected[:, owner < 0] = constant[:, owner < 0]
        if self._differ(both, expected).any():
            raise Ordinary("computes functions of several channels of a place")

    def _differ(self, values: Array, expected: Array) -> npt.NDArray[np.bool_]:
        """A mask of the numbers that differ, except in the last digits; NaN equals NaN."""
        limit = LIMITS.get(self.call.dtype, LIMITS[torch.float32])
        return ~np.isclose(values, np.broadcast_to(expected, values.shape), rtol=limit, atol=limit, equal_nan=True)


def channel_layout(owner: Numbers) -> Numbers:
    """The channels of the functions of one convolution, including constant ones: all functions of a channel one
    after the other, or all channels of a function; otherwise unchanged."""
    known = owner >= 0
    channels = np.unique(owner[known])
    if known.all() or not len(channels):
        return owner
    low, count = channels[0], int(channels[-1] - channels[0]) + 1
    each, rest = divmod(len(owner), count)
    at = np.arange(len(owner))
    for guess in (low + at // max(1, each), low + at % count):
        if not rest and (guess[known] == owner[known]).all():
            return np.asarray(guess)
    return owner
