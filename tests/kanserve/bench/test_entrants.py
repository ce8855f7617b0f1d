"""What `kanserve bench` is made of: sizes, rows, turns, errors, the picture."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.contract.manifest import BasisInfo
from kanserve.bench import entrants, runner
from kanserve.plotting import figures
from kanserve.plotting.figures import Rates
from kanserve.plotting.scenes import Dot, Line
from tests.support import toy_model

widths = st.integers(1, 40)


@given(widths, widths, st.integers(1, 4), st.integers(1, 5000))
def test_no_other_width_is_nearer(sources: int, destinations: int, layers: int, wanted: int) -> None:
    found = entrants.mlp_widths(sources, destinations, layers, wanted)
    assert len(found) == max(1, layers - 1) + 2
    assert (found[0], found[-1]) == (sources, destinations)
    assert len(set(found[1:-1])) == 1

    def off(width: int) -> int:
        return abs(entrants.mlp_parameters((sources, *[width] * (len(found) - 2), destinations)) - wanted)

    assert off(found[1]) == min(map(off, range(1, 5002)))


@given(st.lists(widths, min_size=2, max_size=5))
def test_parameters_of_an_mlp(found: list[int]) -> None:
    assert entrants.mlp_parameters(found) == sum(np.zeros((n, m)).size + m for n, m in itertools.pairwise(found))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(1e-6, 1e3))
def test_errors(values: list[float], scale: float) -> None:
    """Relative to the largest answer, whatever the unit."""
    right = np.array(values)
    largest = float(np.abs(right).max())
    assert entrants.error(right, right, right) == 0
    off = right.copy()
    off[0] += scale
    expected = abs(float(off[0] - right[0])) / largest if largest else math.inf
    if off[0] != right[0]:
        assert entrants.error(off, right, right) == pytest.approx(expected)


@pytest.mark.parametrize("spoiled", [np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.array([[1.0, 2.0]])])
def test_an_error_that_cannot_be_told_is_infinite(spoiled: np.ndarray) -> None:
    right = np.array([1.0, 2.0])
    assert entrants.error(spoiled, right, right) == math.inf


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 30))
def test_rows_again_and_again(count: int, wanted: int, start: int) -> None:
    found = entrants.repeated({"x": np.arange(count)}, wanted, start)["x"]
    assert found.tolist() == list(itertools.islice(itertools.cycle(range(count)), start, start + wanted))


def test_calls_are_timed_in_turns() -> None:
    called: list[str] = []
    done: list[int] = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}  # type: ignore[misc] # the loop's own name
    seconds = runner.measure(calls, 3, least=0.0, after=lambda: done.append(len(called)))
    assert "".join(called) == "aabb" * 3  # the first of each is not counted
    assert done == [4, 8, 12]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_figures_of_turns() -> None:
    ours, other = np.array([1.0, 2.0, 4.0, 8.0, 100.0]), np.array([3.0, 6.0, 12.0, 24.0, 100.0])
    found = runner.spread(ours)
    assert (found.lower, found.median, found.upper) == (2.0, 4.0, 8.0)
    assert runner.ratio(other, ours) == 3.0  # what disturbed both does not count
    assert runner.ratio(ours, ours) == 1.0


@pytest.mark.parametrize("grid", [False, True])
def test_drawn_rows_lie_where_the_manifest_says(grid: bool) -> None:
    """Inside the grids, where there are some; else where the reference rows lie, which go from -2 to 2."""
    manifest = toy_model.manifest("toy")
    first, *others = manifest.layers
    if grid:
        knots = tuple(np.arange(-5.0, 7.0).tolist())  # from -2 to 3, and three more on either side
        basis = BasisInfo(kind="bspline", functions=8, parameters={"degree": "3"}, knots=(knots,))
        manifest = dataclasses.replace(manifest, layers=(dataclasses.replace(first, bases=(basis,)), *others))
    x = entrants.drawn(manifest, 500)["x"]
    known = np.array(manifest.reference.inputs)
    low, high = (np.full(3, -2.0), np.full(3, 3.0)) if grid else (known.min(axis=0), known.max(axis=0))
    assert (x.shape, x.dtype) == ((500, 3), np.float32)
    assert (x >= low - 1e-6).all()
    assert (x <= high + 1e-6).all()
    assert (np.ptp(x, axis=0) > 0.9 * (high - low)).all()
    assert (entrants.drawn(manifest, 500)["x"] == x).all()


points = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e9)).map(lambda one: (one[0], one[1] / 2, one[1], one[1] * 2)),
    min_size=1,
    max_size=6,
)


@given(st.lists(points, min_size=1, max_size=4))
def test_all_points_lie_in_the_frame(every: list[list[tuple[int, float, float, float]]]) -> None:
    scene = figures.throughput_scene("title", "caption", [Rates(f"r{at}", tuple(one)) for at, one in enumerate(every)])
    dots = [item for item in scene.items if isinstance(item, Dot)]
    assert len(dots) == sum(map(len, every))
    for dot in dots:
        assert figures.THROUGHPUT_LEFT <= dot.x <= figures.THROUGHPUT_WIDTH - figures.THROUGHPUT_RIGHT
        assert figures.THROUGHPUT_TOP <= dot.y <= figures.THROUGHPUT_HEIGHT - figures.THROUGHPUT_BOTTOM
    assert all(
        math.isfinite(value) for item in scene.items if isinstance(item, Line) for p in item.points for value in p
    )


@given(st.floats(1e-3, 1e6), st.floats(1.0, 1e6))
def test_marks_are_round_and_in_between(low: float, times: float) -> None:
    for mark in figures.decades(low, low * times):
        assert low <= mark <= low * times
        assert f"{mark:e}"[0] in "125"
