"""Curves of edges: ranges, values and rejected cases, as pure functions and over the wire."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kanexport.shared.manifest import BasisInfo, LayerInfo, NodeStep
from kanserve.analysis import curves
from kanserve.analysis.curves import Origin
from tests.kanserve.repository.test_validation import EDGE
from tests.support import toy_model

FEWER = settings(max_examples=settings.default.max_examples // 5)
LAYER: LayerInfo = toy_model.manifest("toy").layers[0]
F32 = np.dtype(np.float32)


def with_knots(*rows: tuple[float, ...], **changes: Any) -> LayerInfo:
    basis = BasisInfo(kind="bspline", functions=8, parameters={}, knots=rows)
    return dataclasses.replace(LAYER, bases=(dataclasses.replace(basis, **changes),))


def test_a_source_with_knots_has_its_grid() -> None:
    result = curves.domain(with_knots((-1.0, 0.0, 1.0)), np.full((2, 3), 9.0))
    np.testing.assert_allclose((result.low, result.high), ([-1.04] * 3, [1.04] * 3))
    assert result.origins == (Origin.GRID,) * 3
    result = curves.domain(with_knots((0.0, 1.0), (0.0, 2.0), (3.0, 3.0)), None)
    np.testing.assert_allclose(result.high, [1.02, 2.04, 3.5])  # the knots of the last are all one


@pytest.mark.parametrize(
    "layer",
    [
        with_knots(),
        with_knots((0.0, 1.0), pre_steps=(NodeStep(kind="layernorm"),)),
        with_knots((0.0, 1.0), per_edge=True),
        dataclasses.replace(with_knots((0.0, 1.0)), pre_steps=(NodeStep(kind="affine", scale=(2.0,), bias=(0.0,)),)),
    ],
    ids=["none", "behind a step", "of each edge", "behind a step of all"],
)
def test_without_knots_that_are_in_units_of_the_node_a_source_goes_where_it_was_seen(layer: LayerInfo) -> None:
    seen = np.array([[0.0, 5.0, np.nan], [10.0, 5.0, np.inf]])
    result = curves.domain(layer, seen)
    np.testing.assert_allclose((result.low, result.high), ([-1, 4.5, -1], [11, 5.5, 1]))
    assert result.origins == (Origin.REFERENCE, Origin.REFERENCE, Origin.ASSUMED)
    assert set(curves.domain(layer, None).origins) == {Origin.ASSUMED}


def test_selected_columns_are_the_sources() -> None:
    assert curves.columns(LAYER) == (0, 1, 2)
    steps = (NodeStep(kind="select", indices=(4, 2, 0, 1)), NodeStep(kind="function", function="tanh"))
    chosen = dataclasses.replace(LAYER, pre_steps=(*steps, NodeStep(kind="select", indices=(2, 0, 3))))
    assert curves.columns(chosen) == (0, 4, 1)


def test_bases_that_the_graph_tells_apart_are_parts_and_the_rest_is_symbolic() -> None:
    spline, base = (BasisInfo(kind=kind, functions=1, parameters={}, knots=()) for kind in ("bspline", "silu"))
    symbolic = (EDGE,)
    own = tuple(dataclasses.replace(item, edges_tensor=f"edges_{item.kind}") for item in (spline, base))
    for bases, some, kinds, names in (
        ((spline,), (), ("bspline",), ()),
        ((spline, base), (), ("bspline+silu",), ()),  # an edge graph without parts
        (own, (), ("bspline", "silu"), ("edges_bspline", "edges_silu")),
        (own, symbolic, ("bspline", "silu", "symbolic"), ("edges_bspline", "edges_silu")),
        ((own[0], own[0]), (), ("bspline0", "bspline1"), ("edges_bspline",) * 2),
        ((), (), ("nothing",), ()),
    ):
        layer = dataclasses.replace(LAYER, bases=bases, symbolic=some)
        assert curves.named_parts(layer) == (kinds, names)
        total, apart = np.full((2, 1, 1), 9.0), [np.full((2, 1, 1), 2.0), np.full((2, 1, 1), 3.0)][: len(names)]
        parts = curves.all_parts(layer, total, apart)
        assert [float(part[0, 0, 0]) for part in parts] == ([2.0, 3.0, 4.0][: len(kinds)] if names else [9.0])


NUMBERS = st.floats(-1e6, 1e6, width=32)


@FEWER
@given(low=NUMBERS, width=st.floats(1e-3, 1e6), points=st.integers(2, 200))
def test_a_grid_has_its_ends_and_goes_up(low: float, width: float, points: int) -> None:
    domain = curves.requested(low, low + width, 3)
    x = curves.grid(domain, points, np.dtype(np.float64))
    assert x.shape == (points, 3)
    np.testing.assert_allclose(x[0], low)
    np.testing.assert_allclose(x[-1], low + width)
    assert (np.diff(x, axis=0) > 0).all() or width / points < np.spacing(abs(low) + width)
    single = curves.grid(domain, points, F32)
    np.testing.assert_array_equal(single, single.astype(np.float32))
    below, above = curves.neighbours(single, domain, F32)
    assert (below < single).all()
    assert (single < above).all()


@FEWER
@given(arrays.arrays(np.float64, (2, 3), elements=st.floats(0.3, 3)), st.booleans())
def test_an_extreme_is_found_between_the_points(speed: np.ndarray, largest: bool) -> None:
    """The search finds the extreme of each edge to at least 1% of the distance between two points. It can
    take another extreme whose value differs by less than the bend of the curve between two points."""

    def wave(x: np.ndarray) -> np.ndarray:
        return np.sin(speed * x + speed) + 0.1 * x

    points = np.linspace(-4, 4, 101)
    x = np.broadcast_to(points[:, None, None], (101, 2, 3))
    values = wave(x)
    for _ in range(curves.ROUNDS):
        x = curves.between(*curves.extremum_interval(x, values, largest=largest))
        values = wave(x)
    where, value = curves.best(x, values, largest=largest)
    dense = np.linspace(-4, 4, 40_001)
    fine = wave(dense[:, None, None]) * (1 if largest else -1)
    gap = fine.max(axis=0) - (value if largest else -value)
    assert (gap <= speed**2 * (points[1] - points[0]) ** 2 / 8 + 2e-6).all()
    assert (gap[np.abs(where - dense[fine.argmax(axis=0)]) < points[1] - points[0]] <= 2e-6).all()
    np.testing.assert_allclose(wave(where), value)
    nothing = np.full((5, 2, 3), np.nan)
    assert np.isnan(curves.best(nothing, nothing, largest=largest)).all()


@FEWER
@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(2, 1024))
def test_blocks_hold_every_edge_once_and_no_more_than_fits(sources: int, destinations: int, points: int) -> None:
    covered, last = 0, (0, 0)
    for first, second in curves.blocks(range(sources), range(destinations), points):
        rows, columns = len(range(sources)[first]), len(range(destinations)[second])
        assert rows * columns * points * 4 <= max(curves.BLOCK, points * 4)
        assert (first.start, second.start) >= last
        covered, last = covered + rows * columns, (first.start, second.start)
    assert covered == sources * destinations
