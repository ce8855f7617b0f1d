"""Tests of `plotting/render.py`."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.plotting import figures, render, scenes
from kanserve.plotting.scenes import BLACK, RED, Curve, Layer, Line, Scene
from tests.support.scene_models import X, layer, made

SVG = "{http://www.w3.org/2000/svg}"


def of(scene: Scene, kind: type) -> list[Any]:
    return [item for item in scene.items if isinstance(item, kind)]


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=2, max_size=40))
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    curve = Curve(np.linspace(0, 1, len(values)), np.array(values))
    entry = Layer(np.ones((1, 1)), np.zeros((1, 1), bool), np.ones((1, 1), bool), (0,), (1,), {(0, 0): curve})
    for scene in (scenes.scene(made(entry)), figures.edge_scene("t", "c", ("a", "b"), curve, [], BLACK)):
        numbers = [number for line in of(scene, Line) for point in line.points for number in point]
        assert np.isfinite(numbers).all()
        ElementTree.fromstring(render.text(scene))


SCENES = {
    "network": scenes.scene(made(layer(2, 4, (1, 1, 2)), layer(3, 1))),
    "matrix": figures.matrix_scene(made(layer(300, 40), layer(40, 10))),
    "edge": figures.edge_scene("title", "caption", ("a", "b"), Curve(X, np.sin(3 * X)), [0.0], RED),
}


EVERY = pytest.mark.parametrize("name", SCENES)


@EVERY
def test_svg_is_one_file_and_nothing_in_it_is_from_elsewhere(name: str) -> None:
    scene = SCENES[name]
    root = ElementTree.fromstring(render.text(scene))
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text == scene.title  # type: ignore[union-attr] # there is one
    assert len(root) == len(scene.items) + 2
    assert "script" not in render.text(scene)
    links = [value for part in root.iter() for key, value in part.attrib.items() if key == "href"]
    assert all(link.startswith("data:image/png;base64,") for link in links)


@EVERY
def test_png_is_the_scene_in_pixels(name: str) -> None:
    png = pytest.importorskip("kanserve.plotting.render")
    from PIL import Image

    scene = SCENES[name]
    image = Image.open(io.BytesIO(png.data(scene)))
    assert image.size == (round(scene.width * png.SCALE), round(scene.height * png.SCALE))
    pixels = np.asarray(image)
    assert pixels.min() < 80  # ink
    assert (pixels == 255).all(axis=2).mean() > 0.3  # and paper


@EVERY
def test_characters_are_as_wide_as_they_may_be(name: str) -> None:
    lines = render.lines(SCENES[name], 80)
    assert max(map(len, lines)) <= 80
    text = "".join(lines)
    assert any(0x2800 < ord(character) <= 0x28FF for character in text)
    assert SCENES[name].title in text


def test_a_field_of_colours_is_a_png_that_others_read() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    data = render.png(colours)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (7, 5)
    start = data.index(b"IDAT") + 4
    (size,) = struct.unpack(">I", data[start - 8 : start - 4])
    rows = np.frombuffer(zlib.decompress(data[start : start + size]), "u1")
    np.testing.assert_array_equal(rows.reshape(5, 22)[:, 1:].reshape(5, 7, 3), colours)
