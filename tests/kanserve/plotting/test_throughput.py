"""Tests of `plotting/throughput.py`."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kanserve.plotting import figures
from kanserve.plotting.figures import Rates
from kanserve.plotting.scenes import Dot, Line

points = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e9)).map(
        lambda element: (element[0], element[1] / 2, element[1], element[1] * 2)
    ),
    min_size=1,
    max_size=6,
)


@given(st.lists(points, min_size=1, max_size=4))
def test_all_points_lie_in_the_frame(every: list[list[tuple[int, float, float, float]]]) -> None:
    scene = figures.throughput_scene(
        "title", "caption", [Rates(f"r{at}", tuple(entry)) for at, entry in enumerate(every)]
    )
    dots = [item for item in scene.items if isinstance(item, Dot)]
    assert len(dots) == sum(map(len, every))
    for dot in dots:
        assert figures.SIDE <= dot.x <= figures.WIDE - figures.LEGEND
        assert figures.HEAD <= dot.y <= figures.HIGH - figures.FOOT
    assert all(
        math.isfinite(value) for item in scene.items if isinstance(item, Line) for p in item.points for value in p
    )


@given(st.floats(1e-3, 1e6), st.floats(1.0, 1e6))
def test_marks_are_round_and_in_between(low: float, times: float) -> None:
    for mark in figures.decades(low, low * times):
        assert low <= mark <= low * times
        assert f"{mark:e}"[0] in "125"
