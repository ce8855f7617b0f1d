"""A network of too many edges for lines: a field a layer, a dot of colour an edge, dark where it matters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kanserve.pictures.figure import Layer, Network
from kanserve.pictures.scene import BLACK, GREY, PURPLE, RED, Box, Field, Scene, Words, shortened

WIDTH, MARGIN, TOP, GAP, BOTTOM = 960.0, 70.0, 56.0, 46.0, 40.0
LEAST, MOST = 60.0, 420.0  # the height of a field
CELL = 14.0  # the most of a row


def scene(network: Network) -> Scene:
    """Layer by layer from the top, sources across, destinations down."""
    heights = [min(MOST, max(LEAST, CELL * layer.scores.shape[1])) for layer in network.layers]
    found = Scene(WIDTH, TOP + sum(heights) + GAP * len(heights) + BOTTOM, network.title)
    found.add(
        Words(MARGIN, 24, shortened(network.title, 100), 15, "start"),
        Words(MARGIN, found.height - 10, shortened(network.caption, 130), 10, "start", GREY),
    )
    y = TOP + 14
    for at, (layer, height) in enumerate(zip(network.layers, heights, strict=True)):
        sources, destinations = layer.scores.shape
        given = "inputs" if at == 0 else "nodes"
        found.add(
            Words(MARGIN, y - 6, f"layer {at}: {sources} {given} across, {destinations} nodes down", 11, "start"),
            Field(MARGIN, y, WIDTH - 2 * MARGIN, height, colours(layer)),
            Box(MARGIN, y, WIDTH - 2 * MARGIN, height, "", GREY),
        )
        last = at == len(network.layers) - 1
        if last and len(network.outputs) == destinations and height / destinations >= 9:
            found.add(
                *(
                    Words(MARGIN - 6, y + height * (row + 0.7) / destinations, shortened(name, 9), 9, "end")
                    for row, name in enumerate(network.outputs)
                )
            )
        y += height + GAP
    return found


def colours(layer: Layer) -> NDArray[np.uint8]:
    """[D, S, 3]: white for what adds nothing, else as dark as it matters, in its kind's colour."""
    opacity = (layer.opacity() / max(float(layer.opacity().max(initial=0.0)), 1e-12))[:, :, None]
    kinds = np.select(
        [(layer.symbolic & layer.numeric)[:, :, None], layer.symbolic[:, :, None], layer.numeric[:, :, None]],
        [_rgb(PURPLE), _rgb(RED), _rgb(BLACK)],
        _rgb("#ffffff"),
    )
    return np.asarray((kinds * opacity + 255 * (1 - opacity)).round(), np.uint8).transpose(1, 0, 2)


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.float64)
