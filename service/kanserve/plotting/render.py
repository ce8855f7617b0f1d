"""Renderer of a scene as SVG, PNG or characters. An SVG is one file, without fonts, scripts or external resources."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from kanserve.plotting.characters import BLANK, DOTS
from kanserve.plotting.scenes import WHITE, Box, Dot, Field, Item, Line, Scene, Words

FONT = "ui-sans-serif, system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"


def text(scene: Scene) -> str:
    """The SVG file."""
    title = escape(scene.title)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_number(scene.width)} {_number(scene.height)}" '
        f'width="{_number(scene.width)}" height="{_number(scene.height)}" role="img" aria-label="{title}" '
        f'font-family="{FONT}"><title>{title}</title>'
        f'<rect width="100%" height="100%" fill="{WHITE}"/>'
    )
    return "\n".join([head, *map(_item, scene.items), "</svg>", ""])


def _item(item: Item) -> str:
    match item:
        case Line():
            points = " ".join(f"{_number(x)},{_number(y)}" for x, y in item.points)
            return (
                f'<polyline points="{points}" fill="none" stroke="{item.colour}" stroke-width="{_number(item.width)}"'
                f"{_opacity(item.opacity)}/>"
            )
        case Box():
            stroke = f' stroke="{item.stroke}"' if item.stroke else ""
            return f'<rect {_place(item)} fill="{item.fill or "none"}"{stroke}{_opacity(item.opacity)}/>'
        case Dot():
            place = f'cx="{_number(item.x)}" cy="{_number(item.y)}" r="{_number(item.radius)}"'
            return f'<circle {place} fill="{item.colour}"/>'
        case Words():
            return (
                f'<text x="{_number(item.x)}" y="{_number(item.y)}" font-size="{_number(item.size)}" '
                f'text-anchor="{item.anchor}" fill="{item.colour}">{escape(item.text)}</text>'
            )
        case Field():
            data = base64.b64encode(png(item.colours)).decode()
            return (
                f'<image {_place(item)} preserveAspectRatio="none" style="image-rendering: pixelated" '
                f'href="data:image/png;base64,{data}"/>'
            )


def _place(item: Box | Field) -> str:
    places = {"x": item.x, "y": item.y, "width": item.width, "height": item.height}
    return " ".join(f'{name}="{_number(value)}"' for name, value in places.items())


def _number(value: float) -> str:
    """A number with one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def _opacity(value: float) -> str:
    return "" if value >= 1 else f' opacity="{value:.2f}"'


def png(colours: NDArray[np.uint8]) -> bytes:
    """Colors [H, W, 3] as a PNG file (https://www.w3.org/TR/png-3/): eight bits per color, no filters."""
    height, width, _ = colours.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), colours.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


SCALE = 2  # pixels of the file for a point
FINER = 2  # oversampling, because the lines of Pillow have steps
PLAIN = str.maketrans({"→": "-", "φ": "phi", "\u00d7": "x", "…": "..."})  # characters that the font does not have
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def data(scene: Scene) -> bytes:
    """The PNG file."""
    times = SCALE * FINER
    image = Image.new("RGB", (round(scene.width * times), round(scene.height * times)), WHITE)
    draw = ImageDraw.Draw(image)
    for item in scene.items:
        match item:
            case Line():
                points = [(x * times, y * times) for x, y in item.points]
                draw.line(points, _mixed(item.colour, item.opacity), max(1, round(item.width * times)), joint="curve")
            case Box():
                place = [item.x * times, item.y * times, (item.x + item.width) * times, (item.y + item.height) * times]
                fill, stroke = (_mixed(colour, item.opacity) if colour else None for colour in (item.fill, item.stroke))
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
    smaller = image.resize((round(scene.width * SCALE), round(scene.height * SCALE)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    smaller.save(out, "PNG", optimize=True)
    return out.getvalue()


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


@functools.cache
def _mixed(colour: str, opacity: float) -> tuple[int, ...]:
    """Colour on a white background."""
    return tuple(round(part * opacity + 255 * (1 - opacity)) for part in ImageColor.getrgb(colour)[:3])


Dots = NDArray[np.bool_]
Places = NDArray[np.float64]
FAINT = 0.15  # items with less opacity are not drawn


def lines(scene: Scene, width: int) -> list[str]:
    """Lines of braille characters, `width` characters wide."""
    across = width * 2 / scene.width
    height = max(1, round(scene.height * across / 4))
    dots = np.zeros((height * 4, width * 2), bool)
    for item in scene.items:
        if isinstance(item, Field):
            _shaded(dots, item, across)
        else:
            for (x0, y0), (x1, y1) in itertools.pairwise((x * across, y * across) for x, y in _outline(item)):
                count = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
                _set(dots, np.linspace(x0, x1, count + 1), np.linspace(y0, y1, count + 1))
    cells = dots.reshape(height, 4, width, 2)
    codes = (cells * DOTS[None, :, None, :]).sum(axis=(1, 3)).tolist()
    rows = [[chr(BLANK + code) if code else " " for code in row] for row in codes]
    for item in scene.items:
        if isinstance(item, Words):
            before = {"start": 0, "middle": len(item.text) // 2, "end": len(item.text)}[item.anchor]
            at = round(item.x * across / 2) - before
            row = min(max(round(item.y * across / 4 - 0.5), 0), len(rows) - 1)
            for offset, character in enumerate(item.text):
                if 0 <= at + offset < len(rows[row]):
                    rows[row][at + offset] = character
    return ["".join(row).rstrip() for row in rows]


def _outline(item: Item) -> Sequence[tuple[float, float]]:
    """Drawn outline of an item, as points; empty for an item that is too faint."""
    match item:
        case Line() if item.opacity >= FAINT:
            return item.points
        case Box() if item.stroke and item.opacity >= FAINT:
            right, bottom = item.x + item.width, item.y + item.height
            return (item.x, item.y), (right, item.y), (right, bottom), (item.x, bottom), (item.x, item.y)
        case Dot():
            return (item.x - item.radius, item.y), (item.x + item.radius, item.y)
    return ()


def _set(dots: Dots, x: Places, y: Places) -> None:
    columns, rows = x.round().astype(int), y.round().astype(int)
    inside = (columns >= 0) & (columns < dots.shape[1]) & (rows >= 0) & (rows < dots.shape[0])
    dots[rows[inside], columns[inside]] = True


def _shaded(dots: Dots, item: Field, across: float) -> None:
    """Draw colors as a pattern of dots. A dark color has more dots."""
    left, top = round(item.x * across), round(item.y * across)
    width, height = max(1, round(item.width * across)), max(1, round(item.height * across))
    rows = np.linspace(0, item.colours.shape[0] - 1, height).round().astype(int)
    columns = np.linspace(0, item.colours.shape[1] - 1, width).round().astype(int)
    dark = 1 - item.colours[rows][:, columns].mean(axis=2) / 255
    pattern = (np.arange(height)[:, None] * 2 + np.arange(width)[None] * 3) % 4 / 4 + 0.125
    y, x = np.nonzero(dark > pattern)
    _set(dots, (x + left).astype(np.float64), (y + top).astype(np.float64))
