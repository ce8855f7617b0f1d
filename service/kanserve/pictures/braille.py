"""A scene as lines of characters: braille for what is drawn, words as they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kanserve.pictures.scene import Box, Dot, Field, Item, Line, Scene, Words

DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a character, [row, column]
BLANK = 0x2800
Dots = NDArray[np.bool_]
Places = NDArray[np.float64]
FAINT = 0.15  # what is fainter is not drawn: a dot is there or not


def lines(scene: Scene, width: int) -> list[str]:
    """So many characters wide, and as high as that makes it."""
    across = width * 2 / scene.width
    height = max(1, round(scene.height * across / 4))
    dots = np.zeros((height * 4, width * 2), bool)
    for item in scene.items:
        if isinstance(item, Field):
            _shaded(dots, item, across)
        else:
            _through(dots, [(x * across, y * across) for x, y in _outline(item)])
    cells = dots.reshape(height, 4, width, 2)
    codes = (cells * DOTS[None, :, None, :]).sum(axis=(1, 3)).tolist()
    rows = [[chr(BLANK + code) if code else " " for code in row] for row in codes]
    for item in scene.items:
        if isinstance(item, Words):
            _write(rows, item, across)
    return ["".join(row).rstrip() for row in rows]


def _outline(item: Item) -> Sequence[tuple[float, float]]:
    """What is drawn of it, as a line in points; nothing of what is too faint."""
    match item:
        case Line() if item.opacity >= FAINT:
            return item.points
        case Box() if item.stroke and item.opacity >= FAINT:
            right, bottom = item.x + item.width, item.y + item.height
            return (item.x, item.y), (right, item.y), (right, bottom), (item.x, bottom), (item.x, item.y)
        case Dot():
            return (item.x - item.radius, item.y), (item.x + item.radius, item.y)
    return ()


def _through(dots: Dots, points: Sequence[tuple[float, float]]) -> None:
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        count = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
        _set(dots, np.linspace(x0, x1, count + 1), np.linspace(y0, y1, count + 1))


def _set(dots: Dots, x: Places, y: Places) -> None:
    columns, rows = x.round().astype(int), y.round().astype(int)
    inside = (columns >= 0) & (columns < dots.shape[1]) & (rows >= 0) & (rows < dots.shape[0])
    dots[rows[inside], columns[inside]] = True


def _shaded(dots: Dots, item: Field, across: float) -> None:
    """Dark colours as dots, lighter ones as fewer, in a pattern."""
    left, top = round(item.x * across), round(item.y * across)
    width, height = max(1, round(item.width * across)), max(1, round(item.height * across))
    rows = np.linspace(0, item.colours.shape[0] - 1, height).round().astype(int)
    columns = np.linspace(0, item.colours.shape[1] - 1, width).round().astype(int)
    dark = 1 - item.colours[rows][:, columns].mean(axis=2) / 255
    pattern = (np.arange(height)[:, None] * 2 + np.arange(width)[None] * 3) % 4 / 4 + 0.125
    y, x = np.nonzero(dark > pattern)
    _set(dots, (x + left).astype(np.float64), (y + top).astype(np.float64))


def _write(rows: list[list[str]], item: Words, across: float) -> None:
    at = round(item.x * across / 2) - {"start": 0, "middle": len(item.text) // 2, "end": len(item.text)}[item.anchor]
    row = min(max(round(item.y * across / 4 - 0.5), 0), len(rows) - 1)
    for offset, character in enumerate(item.text):
        if 0 <= at + offset < len(rows[row]):
            rows[row][at + offset] = character
