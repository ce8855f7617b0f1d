"""What a picture is made of, in points from the top left corner."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BLACK, RED, PURPLE, GREY, BLUE, WHITE = "#111111", "#cc2222", "#7733aa", "#888888", "#2266bb", "#ffffff"


@dataclass(frozen=True, slots=True)
class Line:
    """Through some points. `opacity` 0 to 1."""

    points: tuple[tuple[float, float], ...]
    colour: str = BLACK
    width: float = 1.0
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; an empty `fill` or `stroke` is none."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    stroke: str = ""
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    radius: float
    colour: str = BLACK


@dataclass(frozen=True, slots=True)
class Words:
    """`text` at its baseline; `anchor`: which part of it is at x, start, middle or end."""

    x: float
    y: float
    text: str
    size: float = 11.0
    anchor: str = "middle"
    colour: str = BLACK


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Colours [H, W, 3], 0 to 255, stretched over a rectangle."""

    x: float
    y: float
    width: float
    height: float
    colours: NDArray[np.uint8]


Item = Line | Box | Dot | Words | Field


@dataclass(slots=True)
class Scene:
    """`title` says in words what can be seen."""

    width: float
    height: float
    title: str
    items: list[Item] = field(default_factory=list)

    def add(self, *items: Item) -> None:
        """On top of what there is."""
        self.items.extend(items)


def shortened(text: str, most: int) -> str:
    """No longer than so many characters."""
    return text if len(text) <= most else f"{text[: max(1, most - 1)]}…"
