"""Coverage of nodes: in grid, extended grid or out of grid, compared with a scalar implementation."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.shared.manifest import BasisInfo, LayerInfo, NodeStep, SymbolicEdge
from kanexport.shared.sections import NodeBaseline
from kanserve.analysis import coverage
from kanserve.analysis.coverage import Definition, Zone
from tests.support import toy_model

LAYER: LayerInfo = toy_model.manifest("toy").layers[0]
FAST = settings(max_examples=settings.default.max_examples // 5)
INSIDE, EXTENSION, OUTSIDE, UNKNOWN = (int(z) for z in (Zone.INSIDE, Zone.EXTENSION, Zone.OUTSIDE, Zone.UNKNOWN))


def spline(*knots: tuple[float, ...], degree: int = 3, pre_steps: tuple[NodeStep, ...] = ()) -> BasisInfo:
    functions = len(knots[0]) - degree - 1
    return BasisInfo(kind="bspline", functions=functions, parameters={}, knots=knots, pre_steps=pre_steps)


def uniform(low: float, high: float, cells: int = 5, degree: int = 3) -> tuple[float, ...]:
    step = (high - low) / cells
    return tuple(low + step * at for at in range(-degree, cells + degree + 1))


def layer(*bases: BasisInfo, sources: int = 3, **changes: object) -> LayerInfo:
    return dataclasses.replace(LAYER, bases=bases, sources=sources, **changes)  # type: ignore[arg-type] # fields of it


def seen(*ranges: tuple[float, float]) -> NodeBaseline:
    """Baseline whose nodes have four grid intervals in each range."""
    cells = tuple(tuple(np.linspace(low, high, 5).tolist()) for low, high in ranges)
    none = (0.0,) * len(ranges)
    return NodeBaseline(
        cells=cells, counts=((0,) * 6,) * len(ranges), nonfinite=(0,) * len(ranges), mean=none, std=none
    )


def measured(of: LayerInfo, rows: np.ndarray, baseline: NodeBaseline | None = None) -> coverage.Coverage:
    return coverage.measure(coverage.bounds(of, rows.shape[1], baseline), rows)


# Not closer than 1e-3: a step before the basis rounds to more than a closer distance.
PLACES = st.lists(st.integers(-50_000, 50_000), min_size=9, max_size=14, unique=True)
KNOTS = PLACES.map(lambda places: tuple(at / 1000 for at in sorted(places)))
VALUES = st.lists(st.floats(-200, 200) | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=20)


@FAST
@given(KNOTS, st.integers(1, 3), VALUES)
def test_a_node_is_where_its_knots_say(knots: tuple[float, ...], degree: int, values: list[float]) -> None:
    result = measured(layer(spline(knots, degree=degree), sources=1), np.array(values)[:, None])
    low, high = knots[degree], knots[-1 - degree]
    cell = (high - low) / (len(knots) - 1 - 2 * degree)
    for value, zone, cells in zip(values, result.zones[:, 0].tolist(), result.cells[:, 0].tolist(), strict=True):
        beyond = max(low - value, value - high)
        if abs(beyond) < 1e-5 * cell or min(abs(value - knots[0]), abs(value - knots[-1])) < 1e-5 * cell:
            continue
        expected = INSIDE if beyond < 0 else EXTENSION if knots[0] < value < knots[-1] else OUTSIDE
        assert zone == expected
        assert cells == (0 if zone == INSIDE else pytest.approx(beyond / cell) if math.isfinite(value) else math.inf)


@FAST
@given(st.lists(KNOTS, min_size=2, max_size=2), st.floats(-200, 200))
def test_of_several_grids_the_one_that_it_is_farthest_from(pair: list[tuple[float, ...]], value: float) -> None:
    bases = [spline(knots) for knots in pair]
    row = np.full((1, 3), value)
    apart = [measured(layer(basis), row) for basis in bases]
    both = measured(layer(*bases), row)
    np.testing.assert_array_equal(both.zones, np.maximum(*(item.zones for item in apart)))
    limits = coverage.bounds(layer(*bases), 3, None)
    assert coverage.outside(limits, row).tolist() == [(both.zones == OUTSIDE).any()]
    if both.zones[0, 1] == OUTSIDE:
        read, first, last = coverage.placed(limits, row[0], 1)
        assert (read, first <= last) == (value, True)
        assert not first <= read <= last
    np.testing.assert_array_equal(both.cells, np.maximum(*(item.cells for item in apart)))


def test_the_ends_of_a_grid_are_on_it() -> None:
    """Also as float32 has them, which rounds knots to either side."""
    ends = np.array([[-1, 1, np.float32(1.0000001)]], np.float32)
    assert measured(layer(spline(uniform(-1, 1))), ends).zones.tolist() == [[INSIDE] * 3]
    last = np.array([[-2.2, 2.2, 2.21]])
    assert measured(layer(spline(uniform(-1, 1))), last).zones.tolist() == [[EXTENSION, EXTENSION, OUTSIDE]]


def test_columns_that_no_edge_reads_are_nowhere_and_one_may_be_taken_twice() -> None:
    select = NodeStep(kind="select", indices=(3, 1, 3))
    knots = (uniform(-1, 1), uniform(-1, 1), uniform(-2, 2))
    result = measured(layer(spline(*knots), pre_steps=(select,)), np.array([[9.0, 0.0, 9.0, 1.4]]))
    assert result.zones.tolist() == [[UNKNOWN, INSIDE, UNKNOWN, EXTENSION]]
    assert result.worst.tolist() == [3]
    assert result.excess[0] == pytest.approx(1.0)
    assert result.counts.tolist() == [[1, 1, 0]]
    mask = ((1.0,) * 4, (0.0,) * 4, (0.0,) * 4)
    edge = SymbolicEdge(source=2, destination=0, function="x", a=1, b=0, c=1, d=0, mask=1)
    result = measured(layer(spline(uniform(-1, 1)), mask=mask, symbolic=(edge,)), np.full((1, 3), 5.0))
    assert result.zones.tolist() == [[OUTSIDE, UNKNOWN, OUTSIDE]]


def test_without_a_grid_what_the_reference_was_is_the_range() -> None:
    of = layer(BasisInfo(kind="fourier", functions=8, parameters={}, knots=()))
    limits = coverage.bounds(of, 3, seen((0, 4), (-1, 1), (0, 4)))
    assert (limits.definition, set(limits.definitions)) == ("reference", {Definition.REFERENCE})
    result = coverage.measure(limits, np.array([[5.0, 1.0, -0.5]]))
    assert result.zones.tolist() == [[OUTSIDE, INSIDE, OUTSIDE]]
    assert result.cells.tolist() == [[1.0, 0.0, 0.5]]
    limits = coverage.bounds(of, 3, None)
    assert (limits.definition, limits.scales) == ("none", ())
    result = coverage.measure(limits, np.full((2, 3), 1e9))
    assert (result.zones == UNKNOWN).all()
    assert (result.counts.tolist(), result.worst.tolist()) == ([[0] * 3] * 2, [-1] * 2)
    assert result.excess.tolist() == [0.0] * 2


def test_nodes_whose_grid_is_not_known_leave_the_reference() -> None:
    odd = NodeStep(kind="module", function="Odd")
    of = layer(spline(uniform(-1, 1), pre_steps=(odd,)))
    assert coverage.bounds(of, 3, None).definition == "none"
    assert coverage.bounds(of, 3, seen((0, 1), (0, 1), (0, 1))).definition == "reference"
    some = layer(spline(uniform(-1, 1), (0.0,) * 12, uniform(-1, 1)))
    limits = coverage.bounds(some, 3, seen((0, 4), (0, 4), (0, 4)))
    assert [str(item) for item in limits.definitions] == ["grid", "reference", "grid"]
    assert limits.definition == "grid+reference"
    assert coverage.measure(limits, np.full((1, 3), 3.0)).zones.tolist() == [[OUTSIDE, INSIDE, OUTSIDE]]


def test_a_normalisation_is_done_before_the_grid_is_looked_at_and_the_clip_of_an_export_is_left_out() -> None:
    norm = NodeStep(kind="layernorm", scale=(1.0,) * 3, bias=(0.0,) * 3, epsilon=0.0)
    of = layer(spline(uniform(-1, 1), pre_steps=(norm,)))
    row = np.array([[100.0, 101.0, 102.0]])
    assert measured(of, row).zones.tolist() == [[EXTENSION, INSIDE, EXTENSION]]
    clip = NodeStep(kind="clip", scale=(-1.0,) * 3, bias=(1.0,) * 3)
    of = layer(spline(uniform(-1, 1)), pre_steps=(clip,))
    rows = np.full((1, 3), 5.0)
    assert (coverage.measure(coverage.bounds(of, 3, None), rows).zones == INSIDE).all()
    assert (coverage.measure(coverage.bounds(of, 3, None, clamped=True), rows).zones == OUTSIDE).all()


def test_a_baseline_reaches_to_its_last_cell_with_a_value() -> None:
    """Open where values are beyond the cells, as NaN never is; a node without values has no range."""
    counts = ((0, 1, 1, 0, 0), (2, 0, 1, 0, 0), (0,) * 5)
    own = NodeBaseline(
        cells=((0.0, 1.0, 2.0, 3.0),), counts=counts, nonfinite=(0,) * 3, mean=(1.0,) * 3, std=(0.1,) * 3
    )
    nodes = np.array([[0, -9, 9], [2, 2, 9], [2.1, 2, 9], [-0.1, 0, 0], [0, 2.1, 0], [0, np.nan, np.nan]])
    assert coverage.outside(coverage.of_baseline(own), nodes).tolist() == [False, False, True, True, True, True]
