"""Tests of `plotting/figures.py`."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.plotting import figures
from kanserve.plotting.figures import Rates
from kanserve.plotting.scenes import BLACK, Curve, Dot, Line, Words
from tests.support.sample_networks import of

X = np.linspace(-1, 1, 33)


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


POINTS = st.lists(
    st.builds(lambda rows, rate: (rows, rate / 2, rate, rate * 2), st.integers(1, 10**6), st.floats(1e-3, 1e9)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(POINTS, min_size=1, max_size=4))
def test_all_points_lie_in_the_frame(every: list[list[tuple[int, float, float, float]]]) -> None:
    rates = [Rates(f"r{at}", tuple(entry)) for at, entry in enumerate(every)]
    scene = figures.throughput_scene("title", "caption", rates)
    dots = of(scene, Dot)
    assert len(dots) == sum(map(len, every))
    for dot in dots:
        assert figures.SIDE <= dot.x <= figures.WIDE - figures.LEGEND
        assert figures.HEAD <= dot.y <= figures.HIGH - figures.FOOT
    assert all(math.isfinite(value) for line in of(scene, Line) for point in line.points for value in point)


@given(st.floats(1e-3, 1e6), st.floats(1.0, 1e6))
def test_marks_are_round_and_in_between(low: float, times: float) -> None:
    for mark in figures.decades(low, low * times):
        assert low <= mark <= low * times
        assert f"{mark:e}"[0] in "125"
