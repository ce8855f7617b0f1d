"""One edge, large: phi over the values of its source, the knots of its grid below."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kanserve.pictures.figure import Curve, pieces
from kanserve.pictures.scene import BLUE, GREY, Box, Line, Scene, Words, shortened

WIDTH, HEIGHT = 640.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 20.0, 48.0, 64.0
TICKS = 6


def scene(title: str, caption: str, names: tuple[str, str], curve: Curve, knots: Sequence[float], colour: str) -> Scene:
    """`names`: of the source and of what the edge leads to."""
    found = Scene(WIDTH, HEIGHT, title)
    phi = curve.phi.astype(np.float64)
    low, high = _room(phi)
    start, end = float(curve.x[0]), float(curve.x[-1])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return LEFT + (right - LEFT) * (x - start) / (end - start)

    def down(y: float) -> float:
        return bottom - (bottom - TOP) * (y - low) / (high - low)

    found.add(Words(LEFT, 22, shortened(title, 80), 14, "start"), Words(LEFT, HEIGHT - 8, caption, 10, "start", GREY))
    found.add(Box(LEFT, TOP, right - LEFT, bottom - TOP, "", GREY))
    for x in ticks(start, end):
        at = across(x)
        found.add(Line(((at, bottom), (at, bottom + 5)), GREY), Words(at, bottom + 18, f"{x:.4g}", 10))
    for y in ticks(low, high):
        at = down(y)
        found.add(Line(((LEFT - 5, at), (LEFT, at)), GREY), Words(LEFT - 8, at + 4, f"{y:.4g}", 10, "end"))
    for knot in knots:
        if start <= knot <= end:
            found.add(Line(((across(knot), bottom - 7), (across(knot), bottom)), BLUE, 1.5))
    found.add(Words((LEFT + right) / 2, bottom + 34, shortened(names[0], 60), 11))
    found.add(Words(LEFT, TOP - 8, f"φ, to {shortened(names[1], 60)}", 11, "start"))
    for part in pieces(phi):
        found.add(Line(tuple((across(float(curve.x[at])), down(float(phi[at]))) for at in part), colour, 2.0))
    return found


def _room(phi: NDArray[np.float64]) -> tuple[float, float]:
    """From where to where the values go, and a little more: never nothing, however large a flat curve is."""
    shown = phi[np.isfinite(phi)]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 0.0)
    more = max((high - low) * 0.05, 1e-6 * max(abs(low), abs(high))) or 0.5
    return low - more, high + more


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, some six of them."""
    if not high > low:
        return [low]
    rough = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]
