"""Elements of a picture, in points from the top left corner, and the network that a picture shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BLACK, RED, PURPLE, GREY, BLUE, WHITE = "#111111", "#cc2222", "#7733aa", "#888888", "#2266bb", "#ffffff"


@dataclass(frozen=True, slots=True)
class Line:
    """Line through some points. `opacity`: 0 to 1."""

    points: tuple[tuple[float, float], ...]
    colour: str = BLACK
    width: float = 1.0
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Box:
    """Rectangle; an empty `fill` or `stroke` is not drawn."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    stroke: str = ""
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Dot:
    """Filled circle."""

    x: float
    y: float
    radius: float
    colour: str = BLACK


@dataclass(frozen=True, slots=True)
class Words:
    """Text at its baseline. `anchor`: the part of it that is at x: start, middle or end."""

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
    """Picture with its items. `title` is its description in words."""

    width: float
    height: float
    title: str
    items: list[Item] = field(default_factory=list)

    def add(self, *items: Item) -> None:
        """Add items on top of the others."""
        self.items.extend(items)


def shortened(text: str, most: int) -> str:
    """No longer than so many characters."""
    return text if len(text) <= most else f"{text[: max(1, most - 1)]}…"


MANY = 120  # edges of a layer
BETA = 3.0  # pykan's: an edge is as opaque as tanh(3 score)


@dataclass(frozen=True, slots=True)
class Curve:
    """Curve of one edge: `phi` [N] over `x` [N]."""

    x: NDArray[np.float64]
    phi: NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Layer:
    """Layer of the network view.

    scores    [S, D], importance of its edges
    symbolic  [S, D], True for symbolic edges
    numeric   [S, D], True for numeric edges
    columns   [S], the input node of each source
    groups    for each node after the layer, the number of destinations that it multiplies; 1: no product
    curves    curves by (source, destination)
    """

    scores: NDArray[np.floating]
    symbolic: NDArray[np.bool_]
    numeric: NDArray[np.bool_]
    columns: tuple[int, ...]
    groups: tuple[int, ...]
    curves: Mapping[tuple[int, int], Curve] = field(default_factory=dict)

    def colour(self, source: int, destination: int) -> str:
        """pykan's: black numeric, red symbolic, purple both, nothing where an edge adds nothing."""
        symbolic, numeric = self.symbolic[source, destination], self.numeric[source, destination]
        if symbolic:
            return PURPLE if numeric else RED
        return BLACK if numeric else ""

    def opacity(self) -> NDArray[np.float64]:
        """Opacity [S, D]: tanh(3 score), as in pykan. With many edges, all scores are small and lines overlap; the
        opacity is then the square of the share of the largest score."""
        scores = np.nan_to_num(self.scores.astype(np.float64), nan=1.0)
        if scores.size <= MANY:
            return np.asarray(np.tanh(BETA * scores))
        return np.asarray((scores / (scores.max(initial=0.0) or 1.0)) ** 2)


@dataclass(frozen=True, slots=True)
class Network:
    """Network with the texts of its picture.

    title    heading
    caption  text below the picture
    inputs   names of the inputs
    outputs  names of the outputs
    """

    title: str
    caption: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]

    @property
    def edges(self) -> int:
        """Number of edges."""
        return sum(layer.scores.size for layer in self.layers)


def pieces(phi: NDArray[np.floating]) -> list[NDArray[np.intp]]:
    """The places of values that are finite and follow one another, two or more."""
    finite = np.isfinite(phi)
    parts = np.split(np.arange(len(phi)), np.flatnonzero(np.diff(finite.astype(int))) + 1)
    return [part for part in parts if len(part) > 1 and finite[part[0]]]
