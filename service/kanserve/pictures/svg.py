"""A scene as SVG: one file, without fonts, scripts or anything from elsewhere."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np
from numpy.typing import NDArray

from kanserve.pictures.scene import WHITE, Box, Dot, Field, Item, Line, Scene, Words

FONT = "ui-sans-serif, system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"


def text(scene: Scene) -> str:
    """The whole file."""
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
    """Tenths of a point are enough."""
    return f"{value:.1f}".removesuffix(".0")


def _opacity(value: float) -> str:
    return "" if value >= 1 else f' opacity="{value:.2f}"'


def png(colours: NDArray[np.uint8]) -> bytes:
    """Colours [H, W, 3] as a PNG file (https://www.w3.org/TR/png-3/): eight bits a colour, no filters."""
    height, width, _ = colours.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), colours.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
