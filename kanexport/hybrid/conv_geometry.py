"""Which places of a picture a convolution looks at, for every one of its positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Mode = Literal["reflect", "edge", "wrap"]

ZEROS = "constant"  # outside is zero
MODES: dict[str, Mode] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # torch's words and numpy's


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution without its weights, by axis: `pads` before and after. `mode`: what lies outside, ZEROS or
    one of MODES."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    mode: str = ZEROS

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Geometry:
        """From the arguments of torch's functions: numbers, one for every axis, or "same" and "valid"."""
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
        """Whether every position sees the place that it is at, and nothing else."""
        return all(k == 1 for k in (*self.kernel, *self.stride)) and not any(map(any, self.pads)) and self.mode == ZEROS

    @property
    def places(self) -> int:
        """P, of the kernel."""
        return math.prod(self.kernel)

    @property
    def has_zeros(self) -> bool:
        """Whether some position may see beyond the picture, where all functions are zero."""
        return self.mode == ZEROS and any(map(any, self.pads))

    def padded(self, pads: Sequence[int], mode: str) -> Geometry:
        """With padding that was done before, in the order of torch's `pad`: the last axis first."""
        pairs = tuple(zip(pads[0::2], pads[1::2], strict=True))[::-1]
        return Geometry(self.kernel, self.stride, self.dilation, pairs, mode)

    def positions(self, picture: Sequence[int]) -> tuple[int, ...]:
        """How many there are, along each axis."""
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return tuple(
            (size + low + high - span) // stride + 1
            for size, (low, high), span, stride in zip(picture, self.pads, spans, self.stride, strict=True)
        )

    def index(self, picture: Sequence[int]) -> Places:
        """[L, P]: which number of a flat picture each place of the kernel is over, at each position; -1 outside."""
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
        """[B, C, *picture] -> [B, *positions, C * P], a channel's places one after another; zero outside."""
        picture = x.shape[2:]
        flat = np.concatenate([x.reshape(*x.shape[:2], -1), np.zeros((*x.shape[:2], 1))], axis=2)
        seen = flat[:, :, self.index(picture)].transpose(0, 2, 1, 3)  # [B, L, C, P]
        return np.asarray(seen.reshape(len(x), *self.positions(picture), -1))

    def inside(self, picture: Sequence[int]) -> Array:
        """[*positions, P]: 1 where a place lies in the picture, 0 outside."""
        there = (self.index(picture) >= 0).astype(np.float64)
        return there.reshape(*self.positions(picture), self.places)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    numbers = tuple(int(one) for one in value) if isinstance(value, Sequence) else (int(value),) * axes
    return numbers * axes if len(numbers) == 1 else numbers
