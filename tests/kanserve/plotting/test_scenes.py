"""Tests of `plotting/scenes.py`: names, and the drawn elements of networks."""

import numpy as np

from kanserve.plotting import figures, scenes
from kanserve.plotting.scenes import BLACK, PURPLE, RED, Box, Dot, Field, Layer, Line, Words, shortened
from tests.support.sample_networks import X, made, of, scene_layer


def test_a_name_is_cut_where_there_is_no_room() -> None:
    assert shortened("alcohol", 7) == "alcohol"
    assert shortened("alcohol", 5) == "alco…"


def test_scores_that_are_not_finite_do_not_hide_an_edge() -> None:
    item = Layer(np.array([[np.nan]]), np.zeros((1, 1), bool), np.ones((1, 1), bool), (0,), (1,))
    assert item.opacity()[0, 0] > 0.9
    assert scenes.pieces(np.array([np.nan, 1.0, 2.0, np.inf, 3.0]))[0].tolist() == [1, 2]


def test_every_edge_has_its_box_and_its_curve_and_every_node_its_dot() -> None:
    result = scenes.scene(made(scene_layer(2, 3), scene_layer(3, 1)))
    assert len(of(result, Box)) == 9
    assert len(of(result, Dot)) == 2 + 3 + 1
    assert len([line for line in of(result, Line) if len(line.points) == len(X)]) == 9
    assert {"x0", "x1", "y0", "net <1> & more", "what it means"} == {words.text for words in of(result, Words)}
    assert all(0 <= dot.x <= result.width and 0 <= dot.y <= result.height for dot in of(result, Dot))


def test_an_edge_is_as_opaque_as_it_matters_and_none_is_drawn_that_adds_nothing() -> None:
    scores = np.array([[1.0, 0.1], [0.0, 0.5]])
    symbolic = np.array([[True, True], [False, False]])
    numeric = np.array([[False, True], [True, False]])
    entry = Layer(scores, symbolic, numeric, (0, 1), (1, 1))
    result = {(box.stroke, round(box.opacity, 3)) for box in of(scenes.scene(made(entry)), Box)}
    assert result == {(RED, round(float(np.tanh(3.0)), 3)), (PURPLE, round(float(np.tanh(0.3)), 3))}
    assert entry.colour(1, 0) == BLACK
    assert entry.colour(1, 1) == ""


def test_factors_meet_in_their_product_and_selected_columns_alone_have_edges() -> None:
    result = scenes.scene(made(scene_layer(2, 4, (1, 1, 2)), scene_layer(3, 1)))
    assert [words.text for words in of(result, Words)].count(scenes.TIMES) == 1
    assert len(of(result, Dot)) == 2 + 3 + 1 + 2
    chosen = Layer(np.ones((1, 1)), np.zeros((1, 1), bool), np.ones((1, 1), bool), (2,), (1,))
    result = scenes.scene(made(chosen, inputs=4))
    starts = {line.points[0][0] for line in of(result, Line)}
    assert scenes.places(4, result.width)[2] in starts


def test_many_edges_are_lines_and_too_many_a_field() -> None:
    assert not of(scenes.scene(made(scene_layer(20, 10))), Box)
    large = scene_layer(300, 40)
    result = figures.matrix_scene(made(large))
    (field,) = of(result, Field)
    assert field.colours.shape == (40, 300, 3)
    darkest = np.unravel_index(large.scores.argmax(), large.scores.shape)
    assert tuple(field.colours[darkest[1], darkest[0]]) == (0x11, 0x11, 0x11)
    assert "layer 0: 300 inputs (columns), 40 nodes (rows)" in {words.text for words in of(result, Words)}
