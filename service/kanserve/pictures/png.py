"""A scene as PNG, drawn by Pillow (the extra `plot`), which brings a font of its own."""

from __future__ import annotations

import functools
import io
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from kanserve.pictures.scene import WHITE, Box, Dot, Field, Item, Line, Scene, Words

SCALE = 2  # pixels of the file for a point
FINER = 2  # times as fine it is drawn, and made smaller: Pillow's lines have steps
PLAIN = str.maketrans({"→": "-", "φ": "phi", "\u00d7": "x", "…": "..."})  # what the font has not
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def data(scene: Scene) -> bytes:
    """The whole file."""
    times = SCALE * FINER
    image = Image.new("RGB", (round(scene.width * times), round(scene.height * times)), WHITE)
    draw = ImageDraw.Draw(image)
    for item in scene.items:
        _draw(image, draw, item, times)
    smaller = image.resize((round(scene.width * SCALE), round(scene.height * SCALE)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    smaller.save(out, "PNG", optimize=True)
    return out.getvalue()


def _draw(image: Any, draw: Any, item: Item, times: int) -> None:
    match item:
        case Line():
            points = [(x * times, y * times) for x, y in item.points]
            draw.line(points, _mixed(item.colour, item.opacity), max(1, round(item.width * times)), joint="curve")
        case Box():
            place = [item.x * times, item.y * times, (item.x + item.width) * times, (item.y + item.height) * times]
            fill, stroke = (_mixed(one, item.opacity) if one else None for one in (item.fill, item.stroke))
            draw.rectangle(place, fill, stroke, times)
        case Dot():
            x, y, radius = item.x * times, item.y * times, item.radius * times
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], item.colour)
        case Words():
            font = _font(round(item.size * times))
            start = (item.x * times, item.y * times)
            draw.text(start, item.text.translate(PLAIN), item.colour, font, ANCHORS[item.anchor])
        case Field():
            size = (max(1, round(item.width * times)), max(1, round(item.height * times)))
            part = Image.fromarray(item.colours).resize(size, Image.Resampling.NEAREST)
            image.paste(part, (round(item.x * times), round(item.y * times)))


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


@functools.cache
def _mixed(colour: str, opacity: float) -> tuple[int, ...]:
    """On white."""
    return tuple(round(part * opacity + 255 * (1 - opacity)) for part in ImageColor.getrgb(colour)[:3])
