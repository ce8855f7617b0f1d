"""Elements of a picture, in points from the top left corner, and the network view in the style of pykan.

Inputs are at the bottom. Each edge has a small curve, and its opacity shows its importance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Rectangle. An empty `fill` or `stroke` is not drawn."""

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
    """Colors [H, W, 3], 0 to 255, stretched over a rectangle."""

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
    """The text, shortened to at most `most` characters."""
    return text if len(text) <= most else f"{text[: max(1, most - 1)]}…"


MANY = 120  # edges of a layer
BETA = 3.0  # as in pykan: the opacity of an edge is tanh(3 score)


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
        """Color as in pykan: black numeric, red symbolic, purple both. Empty for an edge without a contribution."""
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
    """Indices of consecutive finite values, in groups of at least two."""
    finite = np.isfinite(phi)
    parts = np.split(np.arange(len(phi)), np.flatnonzero(np.diff(finite.astype(int))) + 1)
    return [part for part in parts if len(part) > 1 and finite[part[0]]]


CURVES = MANY  # edges of a layer, each with its curve
WIDTH, LEAST, MOST = 960.0, 14.0, 64.0  # of the picture, and of a curve's box
BELOW, BETWEEN = 60.0, 150.0  # from a row of nodes to the boxes, and to the next row of nodes
MARGIN, TOP, BOTTOM = 40.0, 56.0, 64.0
CAPTION = 130  # characters
BESIDE = 14.0  # from a factor to its product, and to the next factor
TIMES = "\u00d7"
FAINT = 0.02  # edges with less opacity are not drawn


def scene(network: Network) -> Scene:
    """The network with every edge. A layer with at most `CURVES` edges has curves."""
    rows = [len(network.inputs), *(len(layer.groups) for layer in network.layers)]
    curved = [layer.scores.size for layer in network.layers if layer.scores.size <= CURVES]
    width = max(WIDTH, 2 * MARGIN + 26.0 * max(rows), 2 * MARGIN + (LEAST + 4) * max(curved, default=0))
    height = TOP + BETWEEN * len(network.layers) + BOTTOM
    canvas = Scene(width, height, network.title)
    canvas.add(
        Words(MARGIN, 24, shortened(network.title, 100), 15, "start"),
        Words(MARGIN, height - 10, shortened(network.caption, CAPTION), 10, "start", GREY),
    )
    for at, layer in enumerate(network.layers):
        floor = height - BOTTOM - BETWEEN * at
        _layer(canvas, layer, places(rows[at], width), places(rows[at + 1], width), floor)
    for at, count in enumerate(rows):
        y = height - BOTTOM - BETWEEN * at
        canvas.add(*(Dot(x, y, min(5.0, 200 / count + 1.5)) for x in places(count, width)))
    _names(canvas, network.inputs, height - BOTTOM + 20)
    _names(canvas, network.outputs, height - BOTTOM - BETWEEN * len(network.layers) - 12)
    return canvas


def places(count: int, width: float) -> list[float]:
    """Horizontal positions of `count` nodes in a row."""
    room = width - 2 * MARGIN
    return [MARGIN + room * (at + 0.5) / count for at in range(count)]


def _layer(canvas: Scene, layer: Layer, below: Sequence[float], above: Sequence[float], floor: float) -> None:
    """Draw the edges from one row of nodes to the next, with the box of each edge."""
    sources, destinations = layer.scores.shape
    opacity, curved = layer.opacity(), sources * destinations <= CURVES
    boxes = places(sources * destinations, canvas.width)
    size = min(MOST, max(LEAST, 0.8 * (canvas.width - 2 * MARGIN) / (sources * destinations)))
    top, ends = floor - BETWEEN, _ends(layer.groups, above)
    order = np.argsort(opacity, axis=None, kind="stable")  # the most important edge is on top
    for edge in order.tolist():
        source, destination = divmod(edge, destinations)
        colour, shown = layer.colour(source, destination), float(opacity[source, destination])
        if not colour or shown < FAINT:
            continue
        start = below[layer.columns[source]], floor
        across, _, is_factor = ends[destination]
        end = across, top + (BESIDE if is_factor else 0)
        if not curved:
            canvas.add(Line((start, end), colour, 0.8, shown))
            continue
        x, y = boxes[edge], floor - BELOW
        canvas.add(
            Line((start, (x, y + size / 2)), colour, 1.2, shown), Line(((x, y - size / 2), end), colour, 1.2, shown)
        )
        canvas.add(Box(x - size / 2, y - size / 2, size, size, WHITE, colour, max(shown, 0.15)))
        if (curve := layer.curves.get((source, destination))) is not None:
            _curve(canvas, curve, x, y, size, colour, max(shown, 0.15))
    factors = [(across, node) for across, node, is_factor in ends if is_factor]
    canvas.add(*(Words(node + 12, top + 4, TIMES, 12, "start") for node in dict.fromkeys(node for _, node in factors)))
    for across, node in factors:
        end = across, top + BESIDE
        canvas.add(Line((end, (node, top)), BLACK, 1.2), Dot(*end, 2.0))


def _ends(groups: Sequence[int], above: Sequence[float]) -> list[tuple[float, float, bool]]:
    """For each destination: where its edges end, its node, and whether it is a factor of a product. The ends of factors
    are next to each other."""
    return [
        (x + (BESIDE * (at - (size - 1) / 2) if size > 1 else 0.0), x, size > 1)
        for x, size in zip(above, groups, strict=True)
        for at in range(size)
    ]


def _curve(canvas: Scene, curve: Curve, x: float, y: float, size: float, colour: str, opacity: float) -> None:
    """Draw the curve in the box around x and y, from its smallest value to its largest."""
    phi = curve.phi.astype(np.float64)
    finite = np.isfinite(phi)
    if not finite.any():
        return
    low, high = phi[finite].min(), phi[finite].max()
    inner = size * 0.8
    across = np.linspace(x - inner / 2, x + inner / 2, len(phi))
    down = y + inner / 2 - inner * (phi - low) / (high - low) if high > low else np.full(len(phi), y)
    for part in pieces(phi):
        canvas.add(Line(tuple((float(across[at]), float(down[at])) for at in part), colour, 1.4, opacity))


def _names(canvas: Scene, names: Sequence[str], y: float) -> None:
    """Names below or above a row of nodes. If the space is too small for all, only some nodes have names."""
    room = (canvas.width - 2 * MARGIN) / len(names)
    step = max(1, round(18 / room))
    for at, (x, name) in enumerate(zip(places(len(names), canvas.width), names, strict=True)):
        if at % step == 0:
            canvas.add(Words(x, y, shortened(name, max(3, int(room * step / 6.5))), 11))
