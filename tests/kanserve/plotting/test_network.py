"""Pictures: what is drawn of a network, and that each kind of file can be read by others."""

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

from kanserve.plotting import figures, network, render, scenes
from kanserve.plotting.scenes import (
    BLACK,
    PURPLE,
    RED,
    Box,
    Curve,
    Dot,
    Field,
    Layer,
    Line,
    Network,
    Scene,
    Words,
    shortened,
)

X = np.linspace(-1, 1, 33)
SVG = "{http://www.w3.org/2000/svg}"


def layer(sources: int, destinations: int, groups: tuple[int, ...] = (), seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    shape = (sources, destinations)
    curves = {(i, j): Curve(X, np.sin(X * (i + 1)) + j) for i in range(sources) for j in range(destinations)}
    return Layer(
        rng.uniform(0.1, 1, shape),
        np.zeros(shape, bool),
        np.ones(shape, bool),
        tuple(range(sources)),
        groups or (1,) * destinations,
        curves if sources * destinations <= network.CURVES else {},
    )


def made(*layers: Layer, inputs: int = 0) -> Network:
    names = tuple(f"x{at}" for at in range(inputs or len(layers[0].columns)))
    outputs = tuple(f"y{at}" for at in range(len(layers[-1].groups)))
    return Network("net <1> & more", "what it means", names, outputs, layers)


def of(scene: Scene, kind: type) -> list[Any]:
    return [item for item in scene.items if isinstance(item, kind)]


def test_every_edge_has_its_box_and_its_curve_and_every_node_its_dot() -> None:
    found = network.scene(made(layer(2, 3), layer(3, 1)))
    assert len(of(found, Box)) == 9
    assert len(of(found, Dot)) == 2 + 3 + 1
    assert len([line for line in of(found, Line) if len(line.points) == len(X)]) == 9
    assert {"x0", "x1", "y0", "net <1> & more", "what it means"} == {words.text for words in of(found, Words)}
    assert all(0 <= dot.x <= found.width and 0 <= dot.y <= found.height for dot in of(found, Dot))


def test_an_edge_is_as_opaque_as_it_matters_and_none_is_drawn_that_adds_nothing() -> None:
    scores = np.array([[1.0, 0.1], [0.0, 0.5]])
    symbolic = np.array([[True, True], [False, False]])
    numeric = np.array([[False, True], [True, False]])
    one = Layer(scores, symbolic, numeric, (0, 1), (1, 1))
    found = {(box.stroke, round(box.opacity, 3)) for box in of(network.scene(made(one)), Box)}
    assert found == {(RED, round(float(np.tanh(3.0)), 3)), (PURPLE, round(float(np.tanh(0.3)), 3))}
    assert one.colour(1, 0) == BLACK
    assert one.colour(1, 1) == ""


def test_factors_meet_in_their_product() -> None:
    found = network.scene(made(layer(2, 4, (1, 1, 2)), layer(3, 1)))
    assert [words.text for words in of(found, Words)].count(network.TIMES) == 1
    assert len(of(found, Dot)) == 2 + 3 + 1 + 2


def test_selected_columns_alone_have_edges() -> None:
    chosen = Layer(np.ones((1, 1)), np.zeros((1, 1), bool), np.ones((1, 1), bool), (2,), (1,))
    found = network.scene(made(chosen, inputs=4))
    starts = {line.points[0][0] for line in of(found, Line)}
    assert network.places(4, found.width)[2] in starts


def test_many_edges_are_lines_and_too_many_a_field() -> None:
    assert not of(network.scene(made(layer(20, 10))), Box)
    large = layer(300, 40)
    found = figures.matrix_scene(made(large))
    (field,) = of(found, Field)
    assert field.colours.shape == (40, 300, 3)
    darkest = np.unravel_index(large.scores.argmax(), large.scores.shape)
    assert tuple(field.colours[darkest[1], darkest[0]]) == (0x11, 0x11, 0x11)
    assert "layer 0: 300 inputs across, 40 nodes down" in {words.text for words in of(found, Words)}


def test_one_edge_has_its_axes_and_its_knots() -> None:
    phi = np.sin(3 * X)
    phi[10:12] = np.nan
    found = figures.edge_scene("title", "caption", ("a", "b"), Curve(X, phi), [-2.0, -1.0, 0.0, 1.0], BLACK)
    pieces = [line for line in of(found, Line) if line.width == 2.0]
    assert [len(line.points) for line in pieces] == [10, 21]
    assert len([line for line in of(found, Line) if line.width == 1.5]) == 3  # -2 is not in the picture
    assert {"a", "φ, to b", "-1", "0", "1"} <= {words.text for words in of(found, Words)}


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    high = low + span
    if not high - low > 1e-6 * abs(low):
        return  # numbers that hardly differ have no round one between them
    found = figures.ticks(low, high)
    assert 1 <= len(found) <= 13
    assert all(low - 1e-6 * span <= one <= high + 1e-6 * span for one in found)


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=2, max_size=40))
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    curve = Curve(np.linspace(0, 1, len(values)), np.array(values))
    one = Layer(np.ones((1, 1)), np.zeros((1, 1), bool), np.ones((1, 1), bool), (0,), (1,), {(0, 0): curve})
    for scene in (network.scene(made(one)), figures.edge_scene("t", "c", ("a", "b"), curve, [], BLACK)):
        numbers = [number for line in of(scene, Line) for point in line.points for number in point]
        assert np.isfinite(numbers).all()
        ElementTree.fromstring(render.text(scene))


SCENES = {
    "network": network.scene(made(layer(2, 4, (1, 1, 2)), layer(3, 1))),
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


def test_a_name_is_cut_where_there_is_no_room() -> None:
    assert shortened("alcohol", 7) == "alcohol"
    assert shortened("alcohol", 5) == "alco…"


def test_scores_that_are_not_finite_do_not_hide_an_edge() -> None:
    one = Layer(np.array([[np.nan]]), np.zeros((1, 1), bool), np.ones((1, 1), bool), (0,), (1,))
    assert one.opacity()[0, 0] > 0.9
    assert scenes.pieces(np.array([np.nan, 1.0, 2.0, np.inf, 3.0]))[0].tolist() == [1, 2]
