"""Tests of `plotting/scenes.py`."""

from __future__ import annotations

import numpy as np

from kanserve.plotting import scenes
from kanserve.plotting.scenes import Layer, shortened


def test_a_name_is_cut_where_there_is_no_room() -> None:
    assert shortened("alcohol", 7) == "alcohol"
    assert shortened("alcohol", 5) == "alco…"


def test_scores_that_are_not_finite_do_not_hide_an_edge() -> None:
    item = Layer(np.array([[np.nan]]), np.zeros((1, 1), bool), np.ones((1, 1), bool), (0,), (1,))
    assert item.opacity()[0, 0] > 0.9
    assert scenes.pieces(np.array([np.nan, 1.0, 2.0, np.inf, 3.0]))[0].tolist() == [1, 2]
