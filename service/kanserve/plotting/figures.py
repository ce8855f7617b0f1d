"""Scenes for large networks, single edges and throughput. A large network has one field per layer and one cell per
edge."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Sequence
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
    title: str, caption: str, names: tuple[str, str], curve: Curve, knots: Sequence[float], colour: str
) -> Scene:
    """Plot of one edge. `names`: of its source and its destination."""
    scene = Scene(EDGE_WIDTH, EDGE_HEIGHT, title)
    phi = curve.phi.astype(np.float64)
    low, high = _room(phi)
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
    for part in pieces(phi):
        scene.add(Line(tuple((across(float(curve.x[at])), down(float(phi[at]))) for at in part), colour, 2.0))
    return scene


def _room(phi: NDArray[np.float64]) -> tuple[float, float]:
    """Range of the values with a margin. The margin of a flat curve is above 0."""
    shown = phi[np.isfinite(phi)]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 0.0)
    more = max((high - low) * 0.05, 1e-6 * max(abs(low), abs(high))) or 0.5
    return low - more, high + more


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, about six."""
    if not high > low:
        return [low]
    rough = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


THROUGHPUT_WIDTH, THROUGHPUT_HEIGHT = 720.0, 440.0
THROUGHPUT_LEFT, THROUGHPUT_RIGHT, THROUGHPUT_TOP, THROUGHPUT_BOTTOM = 80.0, 250.0, 48.0, 64.0
INNER, FLOOR = THROUGHPUT_WIDTH - THROUGHPUT_RIGHT, THROUGHPUT_HEIGHT - THROUGHPUT_BOTTOM
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


@dataclass(frozen=True, slots=True)
class _Frame:
    """Axes in powers of ten: rows from `start` to `end`, rates from `low` to `high`."""

    start: float
    end: float
    low: float
    high: float

    def across(self, count: float) -> float:
        return THROUGHPUT_LEFT + (INNER - THROUGHPUT_LEFT) * (math.log10(count) - self.start) / (self.end - self.start)

    def down(self, rate: float) -> float:
        return FLOOR - (FLOOR - THROUGHPUT_TOP) * (math.log10(rate) - self.low) / (self.high - self.low)


def throughput_scene(title: str, caption: str, every: Sequence[Rates]) -> Scene:
    """Plot of throughput. Raises ValueError without a point."""
    scene = Scene(THROUGHPUT_WIDTH, THROUGHPUT_HEIGHT, title)
    rows = sorted({point[0] for series in every for point in series.points})
    rates = [rate for series in every for point in series.points for rate in point[1:]]
    low, high = (math.log10(pick(rates)) for pick in (min, max))
    frame = _Frame(math.log10(rows[0]) - ROOM, math.log10(rows[-1]) + ROOM, low - ROOM, high + ROOM)
    scene.add(Words(THROUGHPUT_LEFT, 22, shortened(title, 90), 14, "start"))
    scene.add(Words(THROUGHPUT_LEFT, THROUGHPUT_HEIGHT - 8, shortened(caption, 130), 10, "start", GREY))
    _axes(scene, frame, rows)
    for at, series in enumerate(every):
        _curve(scene, frame, at, series)
    return scene


def _axes(scene: Scene, frame: _Frame, rows: Sequence[int]) -> None:
    scene.add(Box(THROUGHPUT_LEFT, THROUGHPUT_TOP, INNER - THROUGHPUT_LEFT, FLOOR - THROUGHPUT_TOP, "", GREY))
    scene.add(Words(THROUGHPUT_LEFT, THROUGHPUT_TOP - 8, "rows per second", 11, "start"))
    scene.add(Words((THROUGHPUT_LEFT + INNER) / 2, FLOOR + 34, "rows per execution", 11))
    for count in rows:
        at = frame.across(count)
        scene.add(Line(((at, FLOOR), (at, FLOOR + 5)), GREY), Words(at, FLOOR + 18, str(count), 10))
    for rate in decades(10**frame.low, 10**frame.high):
        at = frame.down(rate)
        scene.add(
            Line(((THROUGHPUT_LEFT - 5, at), (THROUGHPUT_LEFT, at)), GREY),
            Words(THROUGHPUT_LEFT - 8, at + 4, f"{rate:,.10g}", 10, "end"),
        )


def _curve(scene: Scene, frame: _Frame, at: int, series: Rates) -> None:
    """Draw the curve of one system, and its line in the legend."""
    colour, letter, level = COLOURS[at % len(COLOURS)], LETTERS[at % len(LETTERS)], THROUGHPUT_TOP + 14 + 18 * at
    scene.add(Line(((INNER + 10, level - 4), (INNER + 26, level - 4)), colour, 2.0))
    scene.add(Words(INNER + 32, level, shortened(f"{letter} {series.name}", 40), 10, "start"))
    places = [(frame.across(count), *map(frame.down, three)) for count, *three in series.points]
    scene.add(Line(tuple((x, middle) for x, _, middle, _ in places), colour, 2.0))
    for x, lower, middle, upper in places:
        scene.add(Line(((x, lower), (x, upper)), colour, 1.0), Dot(x, middle, 3.0, colour))
        scene.add(Words(x, middle - 6, letter, 9, "middle", colour))


def decades(low: float, high: float) -> list[float]:
    """One, two and five times the powers of ten between the two. A wide range has only the powers."""
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    return list(_within(low, high, steps))


def _within(low: float, high: float, steps: Sequence[int]) -> Iterator[float]:
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (step * 10.0**power for step in steps if low <= step * 10.0**power <= high)
