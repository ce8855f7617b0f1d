"""Curves and bars as characters, for tables of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BARS = "▁▂▃▄▅▆▇█"
NO_VALUE = "·"  # at points without a finite value
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a braille character, [row, column]
BLANK = 0x2800


def line(values: Any, width: int) -> str:
    """A curve [N] as one line of bars, from its smallest value to its largest. A flat curve is in the middle."""
    at = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
    levels = _levels(np.asarray(values, np.float64)[at], len(BARS))
    return "".join(NO_VALUE if level is None else BARS[level] for level in levels)


def bar(value: float, largest: float, width: int = 24) -> str:
    """Bar with a length proportional to the magnitude. The bar of a negative value is hollow."""
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
    """Level of each value, 0 to `count` - 1, from the smallest to the largest finite value."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    spread = high - low
    return [
        None if not np.isfinite(item) else round(float((item - low) / spread * (count - 1))) if spread else count // 2
        for item in values
    ]
