"""Tests of `plotting/figures.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kanserve.plotting import figures
from kanserve.plotting.scenes import BLACK, Curve, Line, Scene, Words

X = np.linspace(-1, 1, 33)


def of(scene: Scene, kind: type) -> list[Any]:
    return [item for item in scene.items if isinstance(item, kind)]


def test_one_edge_has_its_axes_and_its_knots() -> None:
    phi = np.sin(3 * X)
    phi[10:12] = np.nan
    result = figures.edge_scene("title", "caption", ("a", "b"), Curve(X, phi), [-2.0, -1.0, 0.0, 1.0], BLACK)
    pieces = [line for line in of(result, Line) if line.width == 2.0]
    assert [len(line.points) for line in pieces] == [10, 21]
    assert len([line for line in of(result, Line) if line.width == 1.5]) == 3  # -2 is not in the picture
    assert {"a", "φ, to b", "-1", "0", "1"} <= {words.text for words in of(result, Words)}


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    high = low + span
    if not high - low > 1e-6 * abs(low):
        return  # numbers that hardly differ have no round one between them
    result = figures.ticks(low, high)
    assert 1 <= len(result) <= 13
    assert all(low - 1e-6 * span <= entry <= high + 1e-6 * span for entry in result)
