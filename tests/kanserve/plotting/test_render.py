"""Tests of `plotting/render.py`."""

import io
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.plotting import figures, render, scenes
from kanserve.plotting.scenes import BLACK, RED, Curve, Layer, Line
from tests.support.sample_networks import X, made, of, scene_layer
from tests.support.tiers import full

SVG = "{http://www.w3.org/2000/svg}"


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.floats(width=32), min_size=2, max_size=40))
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    curve = Curve(np.linspace(0, 1, len(values)), np.array(values))
    entry = Layer(np.ones((1, 1)), np.zeros((1, 1), bool), np.ones((1, 1), bool), (0,), (1,), {(0, 0): curve})
    for scene in (scenes.scene(made(entry)), figures.edge_scene("t", "c", ("a", "b"), curve, [], BLACK)):
        numbers = [number for line in of(scene, Line) for point in line.points for number in point]
        assert np.isfinite(numbers).all()
        ElementTree.fromstring(render.text(scene))


SCENES = {
    "network": scenes.scene(made(scene_layer(2, 4, (1, 1, 2)), scene_layer(3, 1))),
    "matrix": figures.matrix_scene(made(scene_layer(300, 40), scene_layer(40, 10))),
    "edge": figures.edge_scene("title", "caption", ("a", "b"), Curve(X, np.sin(3 * X)), [0.0], RED),
}


@pytest.mark.parametrize("name", SCENES)
def test_svg_and_characters_have_the_scene_and_nothing_from_elsewhere(name: str) -> None:
    scene = SCENES[name]
    root = ElementTree.fromstring(render.text(scene))
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text == scene.title  # type: ignore[union-attr] # there is one
    assert len(root) == len(scene.items) + 2
    assert "script" not in render.text(scene)
    links = [value for part in root.iter() for key, value in part.attrib.items() if key == "href"]
    assert all(link.startswith("data:image/png;base64,") for link in links)
    lines = render.lines(scene, 80)
    assert max(map(len, lines)) <= 80
    assert any(0x2800 < ord(character) <= 0x28FF for character in "".join(lines))
    assert scene.title in "".join(lines)


@pytest.mark.parametrize("name", ["network", pytest.param("matrix", marks=full("combination")), "edge"])
def test_png_is_the_scene_in_pixels(name: str) -> None:
    image_module = pytest.importorskip("PIL.Image")
    scene = SCENES[name]
    with image_module.open(io.BytesIO(render.data(scene))) as image:
        assert image.size == (round(scene.width * render.SCALE), round(scene.height * render.SCALE))
        pixels = np.asarray(image)
    assert pixels.min() < 80  # ink
    assert (pixels == 255).all(axis=2).mean() > 0.3  # and paper


def test_a_field_of_colours_is_a_png_that_others_read() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    data = render.png(colours)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (7, 5)
    start = data.index(b"IDAT") + 4
    (size,) = struct.unpack(">I", data[start - 8 : start - 4])
    rows = np.frombuffer(zlib.decompress(data[start : start + size]), "u1")
    np.testing.assert_array_equal(rows.reshape(5, 22)[:, 1:].reshape(5, 7, 3), colours)
