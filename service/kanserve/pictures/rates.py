"""How many rows a second, over the rows of a run, both in powers: a line for each who was timed, with its quartiles."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kanserve.pictures.scene import BLACK, BLUE, GREY, PURPLE, RED, Box, Dot, Line, Scene, Words, shortened

WIDTH, HEIGHT = 720.0, 440.0
LEFT, RIGHT, TOP, BOTTOM = 80.0, 250.0, 48.0, 64.0
INNER, FLOOR = WIDTH - RIGHT, HEIGHT - BOTTOM
COLOURS = (BLUE, RED, PURPLE, BLACK, "#118833", "#cc7700", GREY)
LETTERS = string.ascii_lowercase  # colours do not tell all apart, and characters have none
ROOM = 0.05  # of a decade, around all that is drawn


@dataclass(frozen=True, slots=True)
class Rates:
    """`points`: rows of a run, and rows a second: lower quartile, median, upper quartile; all above 0."""

    name: str
    points: tuple[tuple[int, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Powers of ten: of rows from `start` to `end`, of rates from `low` to `high`."""

    start: float
    end: float
    low: float
    high: float

    def across(self, count: float) -> float:
        return LEFT + (INNER - LEFT) * (math.log10(count) - self.start) / (self.end - self.start)

    def down(self, rate: float) -> float:
        return FLOOR - (FLOOR - TOP) * (math.log10(rate) - self.low) / (self.high - self.low)


def scene(title: str, caption: str, every: Sequence[Rates]) -> Scene:
    """Raises ValueError without a point."""
    found = Scene(WIDTH, HEIGHT, title)
    rows = sorted({point[0] for one in every for point in one.points})
    rates = [rate for one in every for point in one.points for rate in point[1:]]
    low, high = (math.log10(pick(rates)) for pick in (min, max))
    frame = _Frame(math.log10(rows[0]) - ROOM, math.log10(rows[-1]) + ROOM, low - ROOM, high + ROOM)
    found.add(Words(LEFT, 22, shortened(title, 90), 14, "start"))
    found.add(Words(LEFT, HEIGHT - 8, shortened(caption, 130), 10, "start", GREY))
    _axes(found, frame, rows)
    for at, one in enumerate(every):
        _curve(found, frame, at, one)
    return found


def _axes(found: Scene, frame: _Frame, rows: Sequence[int]) -> None:
    found.add(Box(LEFT, TOP, INNER - LEFT, FLOOR - TOP, "", GREY))
    found.add(Words(LEFT, TOP - 8, "rows a second", 11, "start"))
    found.add(Words((LEFT + INNER) / 2, FLOOR + 34, "rows of a run", 11))
    for count in rows:
        at = frame.across(count)
        found.add(Line(((at, FLOOR), (at, FLOOR + 5)), GREY), Words(at, FLOOR + 18, str(count), 10))
    for rate in decades(10**frame.low, 10**frame.high):
        at = frame.down(rate)
        found.add(Line(((LEFT - 5, at), (LEFT, at)), GREY), Words(LEFT - 8, at + 4, f"{rate:,.10g}", 10, "end"))


def _curve(found: Scene, frame: _Frame, at: int, one: Rates) -> None:
    """And its line in the legend."""
    colour, letter, level = COLOURS[at % len(COLOURS)], LETTERS[at % len(LETTERS)], TOP + 14 + 18 * at
    found.add(Line(((INNER + 10, level - 4), (INNER + 26, level - 4)), colour, 2.0))
    found.add(Words(INNER + 32, level, shortened(f"{letter} {one.name}", 40), 10, "start"))
    places = [(frame.across(count), *map(frame.down, three)) for count, *three in one.points]
    found.add(Line(tuple((x, middle) for x, _, middle, _ in places), colour, 2.0))
    for x, lower, middle, upper in places:
        found.add(Line(((x, lower), (x, upper)), colour, 1.0), Dot(x, middle, 3.0, colour))
        found.add(Words(x, middle - 6, letter, 9, "middle", colour))


def decades(low: float, high: float) -> list[float]:
    """One, two and five times the powers of ten between the two; of a wide range the powers alone."""
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    return list(_within(low, high, steps))


def _within(low: float, high: float, steps: Sequence[int]) -> Iterator[float]:
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (step * 10.0**power for step in steps if low <= step * 10.0**power <= high)
