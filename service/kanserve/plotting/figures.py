"""Scenes for large networks, single edges and throughput. A large network has one field per layer and one cell per
edge."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanserve.plotting.scenes import (
    BLACK,
    BLUE,
    GREY,
    PURPLE,
    RED,
    Box,
    Curve,
    Dot,
    Field,
    Layer,
    Line,
    Network,
    Scene,
    Words,
    pieces,
    shortened,
)

MATRIX_WIDTH, MATRIX_MARGIN, MATRIX_TOP, GAP, MATRIX_BOTTOM = 960.0, 70.0, 56.0, 46.0, 40.0
LEAST_CELL, LARGEST_CELL = 60.0, 420.0  # the height of a field
CELL = 14.0  # the most of a row


def matrix_scene(network: Network) -> Scene:
    """Layers from the top to the bottom, with sources across and destinations down."""
    heights = [min(LARGEST_CELL, max(LEAST_CELL, CELL * layer.scores.shape[1])) for layer in network.layers]
    scene = Scene(MATRIX_WIDTH, MATRIX_TOP + sum(heights) + GAP * len(heights) + MATRIX_BOTTOM, network.title)
    scene.add(
        Words(MATRIX_MARGIN, 24, shortened(network.title, 100), 15, "start"),
        Words(MATRIX_MARGIN, scene.height - 10, shortened(network.caption, 130), 10, "start", GREY),
    )
    y = MATRIX_TOP + 14
    for at, (layer, height) in enumerate(zip(network.layers, heights, strict=True)):
        sources, destinations = layer.scores.shape
        kind = "inputs" if at == 0 else "nodes"
        scene.add(
            Words(
                MATRIX_MARGIN,
                y - 6,
                f"layer {at}: {sources} {kind} (columns), {destinations} nodes (rows)",
                11,
                "start",
            ),
            Field(MATRIX_MARGIN, y, MATRIX_WIDTH - 2 * MATRIX_MARGIN, height, colours(layer)),
            Box(MATRIX_MARGIN, y, MATRIX_WIDTH - 2 * MATRIX_MARGIN, height, "", GREY),
        )
        last = at == len(network.layers) - 1
        if last and len(network.outputs) == destinations and height / destinations >= 9:
            scene.add(
                *(
                    Words(MATRIX_MARGIN - 6, y + height * (row + 0.7) / destinations, shortened(name, 9), 9, "end")
                    for row, name in enumerate(network.outputs)
                )
            )
        y += height + GAP
    return scene


def colours(layer: Layer) -> NDArray[np.uint8]:
    """Colors [D, S, 3]: white for an edge without a contribution, otherwise the color of its kind. Opacity shows
    importance."""
    opacity = (layer.opacity() / max(float(layer.opacity().max(initial=0.0)), 1e-12))[:, :, None]
    kinds = np.select(
        [(layer.symbolic & layer.numeric)[:, :, None], layer.symbolic[:, :, None], layer.numeric[:, :, None]],
        [_rgb(PURPLE), _rgb(RED), _rgb(BLACK)],
        _rgb("#ffffff"),
    )
    return np.asarray((kinds * opacity + 255 * (1 - opacity)).round(), np.uint8).transpose(1, 0, 2)


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.float64)


EDGE_WIDTH, EDGE_HEIGHT = 640.0, 400.0
EDGE_LEFT, EDGE_RIGHT, EDGE_TOP, EDGE_BOTTOM = 70.0, 20.0, 48.0, 64.0
TICKS = 6


def edge_scene(
    title: str,
    caption: str,
    names: tuple[str, str],
    curve: Curve,
    knots: Sequence[float],
    colour: str,
    earlier: Curve | None = None,
) -> Scene:
    """Plot of one edge. `names`: of its source and its destination. `earlier`: its curve before an edit, at the same x,
    as a thin grey line."""
    scene = Scene(EDGE_WIDTH, EDGE_HEIGHT, title)
    drawn = [(curve, colour, 2.0)] if earlier is None else [(earlier, GREY, 1.0), (curve, colour, 2.0)]
    phi = np.concatenate([item.phi.astype(np.float64) for item, _, _ in drawn])
    shown = phi[np.isfinite(phi)]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 0.0)
    more = max((high - low) * 0.05, 1e-6 * max(abs(low), abs(high))) or 0.5
    low, high = (low - more, high + more)
    start, end = float(curve.x[0]), float(curve.x[-1])
    right, bottom = EDGE_WIDTH - EDGE_RIGHT, EDGE_HEIGHT - EDGE_BOTTOM

    def across(x: float) -> float:
        return EDGE_LEFT + (right - EDGE_LEFT) * (x - start) / (end - start)

    def down(y: float) -> float:
        return bottom - (bottom - EDGE_TOP) * (y - low) / (high - low)

    scene.add(
        Words(EDGE_LEFT, 22, shortened(title, 80), 14, "start"),
        Words(EDGE_LEFT, EDGE_HEIGHT - 8, caption, 10, "start", GREY),
    )
    scene.add(Box(EDGE_LEFT, EDGE_TOP, right - EDGE_LEFT, bottom - EDGE_TOP, "", GREY))
    for x in ticks(start, end):
        at = across(x)
        scene.add(Line(((at, bottom), (at, bottom + 5)), GREY), Words(at, bottom + 18, f"{x:.4g}", 10))
    for y in ticks(low, high):
        at = down(y)
        scene.add(
            Line(((EDGE_LEFT - 5, at), (EDGE_LEFT, at)), GREY), Words(EDGE_LEFT - 8, at + 4, f"{y:.4g}", 10, "end")
        )
    for knot in knots:
        if start <= knot <= end:
            scene.add(Line(((across(knot), bottom - 7), (across(knot), bottom)), BLUE, 1.5))
    scene.add(Words((EDGE_LEFT + right) / 2, bottom + 34, shortened(names[0], 60), 11))
    scene.add(Words(EDGE_LEFT, EDGE_TOP - 8, f"φ, to {shortened(names[1], 60)}", 11, "start"))
    for item, own, width in drawn:
        for part in pieces(item.phi):
            scene.add(Line(tuple((across(float(item.x[at])), down(float(item.phi[at]))) for at in part), own, width))
    return scene


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, about six."""
    if not high > low:
        return [low]
    rough = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


WIDE, HIGH, SIDE, HEAD, FOOT = 720.0, 440.0, 80.0, 48.0, 64.0  # pixels of a plot with logarithmic axes
LEGEND = 250.0  # pixels for the names of systems
COLOURS = (BLUE, RED, PURPLE, BLACK, "#118833", "#cc7700", GREY)
LETTERS = string.ascii_lowercase  # not all readers distinguish colors, and characters have no color
ROOM = 0.05  # margin of the plot, in decades


@dataclass(frozen=True, slots=True)
class Rates:
    """Throughput of one system. All numbers are above 0.

    name    its name
    points  rows of an execution, then rows per second: lower quartile, median, upper quartile
    """

    name: str
    points: tuple[tuple[int, float, float, float], ...]


class LogPlot:
    """Plot whose axes are in powers of ten. Its attributes are edges in pixels.

    xs, ys  values on the axes, all above 0
    legend  pixels right of the axes
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float], legend: float) -> None:
        self.left, self.right, self.top, self.floor = SIDE, WIDE - legend, HEAD, HIGH - FOOT
        self._x, self._y = ((math.log10(min(values)) - ROOM, math.log10(max(values)) + ROOM) for values in (xs, ys))

    def across(self, value: float) -> float:
        """Horizontal pixel of a value."""
        start, end = self._x
        return self.left + (self.right - self.left) * (math.log10(value) - start) / (end - start)

    def down(self, value: float) -> float:
        """Vertical pixel of a value."""
        low, high = self._y
        return self.floor - (self.floor - self.top) * (math.log10(value) - low) / (high - low)

    def scene(self, title: str, caption: str, names: tuple[str, str], marks: Sequence[float] = ()) -> Scene:
        """The plot without curves. `names`: of the axes; `marks`: values on the horizontal axis, by default decades."""
        scene = Scene(WIDE, HIGH, title)
        scene.add(Words(self.left, 22, shortened(title, 90), 14, "start"))
        scene.add(Words(self.left, HIGH - 8, shortened(caption, 130), 10, "start", GREY))
        scene.add(Box(self.left, self.top, self.right - self.left, self.floor - self.top, "", GREY))
        scene.add(Words((self.left + self.right) / 2, self.floor + 34, names[0], 11))
        scene.add(Words(self.left, self.top - 8, names[1], 11, "start"))
        for value in marks or decades(*(10**end for end in self._x)):
            at = self.across(value)
            scene.add(Line(((at, self.floor), (at, self.floor + 5)), GREY))
            scene.add(Words(at, self.floor + 18, f"{value:,.10g}", 10))
        for value in decades(*(10**end for end in self._y)):
            at = self.down(value)
            scene.add(Line(((self.left - 5, at), (self.left, at)), GREY))
            scene.add(Words(self.left - 8, at + 4, f"{value:,.10g}", 10, "end"))
        return scene

    def legend(self, scene: Scene, at: int, colour: str, name: str) -> None:
        """Draw the line `at` of the legend."""
        level = self.top + 14 + 18 * at
        scene.add(Line(((self.right + 10, level - 4), (self.right + 26, level - 4)), colour, 2.0))
        scene.add(Words(self.right + 32, level, shortened(name, 40), 10, "start"))


def throughput_scene(title: str, caption: str, every: Sequence[Rates]) -> Scene:
    """Plot of throughput. Raises ValueError without a point."""
    rows = sorted({point[0] for series in every for point in series.points})
    plot = LogPlot(rows, [rate for series in every for point in series.points for rate in point[1:]], LEGEND)
    scene = plot.scene(title, caption, ("rows per execution", "rows per second"), rows)
    for at, series in enumerate(every):
        colour, letter = COLOURS[at % len(COLOURS)], LETTERS[at % len(LETTERS)]
        plot.legend(scene, at, colour, f"{letter} {series.name}")
        places = [(plot.across(count), *map(plot.down, three)) for count, *three in series.points]
        scene.add(Line(tuple((x, middle) for x, _, middle, _ in places), colour, 2.0))
        for x, lower, middle, upper in places:
            scene.add(Line(((x, lower), (x, upper)), colour, 1.0), Dot(x, middle, 3.0, colour))
            scene.add(Words(x, middle - 6, letter, 9, "middle", colour))
    return scene


def decades(low: float, high: float) -> list[float]:
    """One, two and five times the powers of ten between the two. A wide range has only the powers."""
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [step * 10.0**power for power in powers for step in steps]
    return [number for number in numbers if low <= number <= high]
