"""Curves in characters: one line of bars, or a picture of dots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BARS = "▁▂▃▄▅▆▇█"
NOTHING = "·"  # where a curve has no finite value
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a braille character, [row, column]
BLANK = 0x2800


def line(values: Any, width: int) -> str:
    """A curve [N] as one line of bars, from its smallest value to its largest; a flat one lies in the middle."""
    at = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
    levels = _levels(np.asarray(values, np.float64)[at], len(BARS))
    return "".join(NOTHING if level is None else BARS[level] for level in levels)


def bar(value: float, largest: float, width: int = 24) -> str:
    """As long as the value is large; of a negative one it is hollow."""
    if not np.isfinite(value):
        return "?"
    return ("█" if value >= 0 else "░") * round(width * abs(value) / (largest or 1.0))


def picture(values: Any, width: int, height: int) -> list[str]:
    """A curve [N] as lines of braille characters, `width` by `height` of them."""
    rows, columns = height * len(DOTS), width * DOTS.shape[1]
    cells = np.zeros((height, width), np.int64)
    places = np.linspace(0, len(values) - 1, columns)
    levels = _levels(np.interp(places, np.arange(len(values)), np.asarray(values, np.float64)), rows)
    before = None
    for column, level in enumerate(levels):
        if level is None:
            before = None
            continue
        last = level if before is None else before
        for height_ in range(min(level, last), max(level, last) + 1):  # a steep piece has no holes
            row = rows - 1 - height_
            cells[row // len(DOTS), column // 2] |= DOTS[row % len(DOTS), column % 2]
        before = level
    return ["".join(chr(BLANK + cell) for cell in line) for line in cells.tolist()]


def _levels(values: Any, count: int) -> Sequence[int | None]:
    """Which of `count` levels each value has, from the smallest to the largest of the finite ones."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    spread = high - low
    return [
        None if not np.isfinite(one) else round(float((one - low) / spread * (count - 1))) if spread else count // 2
        for one in values
    ]
