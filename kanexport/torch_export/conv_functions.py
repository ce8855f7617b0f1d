"""The functions of a KAN convolution: the module computes them for every number by itself.

They are found by running the module on pictures of one place, in which nothing is convolved, and belong to
a channel if nothing else of the place changes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.torch_export.borrowed_module import ForeignError, foreign_code, replaced
from kanexport.torch_export.capture import Call, array
from kanexport.torch_export.conv_capture import FunctionCapture, Ordinary

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.RMSNorm)
TRIES = (0.3, 1.0, 3.0)  # times what was seen: values that a channel is set to, to see what moves
MAGNITUDES = (0.1, 1.0, 10.0, 1e3, 1e6)
SPOILT, SPOILT_SHARE = (np.nan, np.inf, -np.inf), 0.3
MIXED = 4  # rows of each pair of magnitudes
NUMBERS = 8_000_000  # values of functions held at a time
SAME = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative: how far the same formula may be from itself


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
        return float(np.abs(self.value[np.isfinite(self.value)]).max(initial=0)) or 1.0


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
        for part in self.call.module.modules():
            if part is self.source.module:
                yield part, _giving(part, pictures)
            elif isinstance(part, NORMS):
                yield part, _unchanged

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
        limit = SAME.get(self.call.dtype, SAME[torch.float32])
        return ~np.isclose(values, np.broadcast_to(expected, values.shape), rtol=limit, atol=limit, equal_nan=True)


def _giving(part: nn.Module, output: torch.Tensor) -> Any:
    """A forward that returns a given output; its convolution is still recorded."""
    own = part.forward

    def forward(_: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not isinstance(part, NORMS):
            own(*args, **kwargs)
        return output

    return forward


def _unchanged(self: nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return x


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
