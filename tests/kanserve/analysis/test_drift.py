"""Drift: current counts compared with baseline counts and the no-drift threshold, also over the wire."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kanexport.shared import grids
from kanexport.shared.sections import Baseline, NodeBaseline
from kanserve.analysis import drift
from kanserve.analysis.histogram import Cells, Window
from kanserve.client.errors import NotSupported
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2
from tests.support import toy_model
from tests.support.server_process import KAN, Server, serving
from tests.support.tiers import spread

FEWER = settings(max_examples=settings.default.max_examples // 5)
SAMPLES = arrays.arrays(np.float64, st.tuples(st.integers(2, 40), st.just(2)), elements=st.floats(-3, 3, width=32))
BOUNDS = tuple(np.linspace(-2, 2, 11).tolist())


def counted(values: np.ndarray, bounds: tuple[float, ...] = BOUNDS) -> NodeBaseline:
    """[N, n]"""
    columns = [grids.count(bounds, values[:, at]) for at in range(values.shape[1])]
    counts, nonfinite = zip(*columns, strict=True)
    zeros = (0.0,) * values.shape[1]
    return NodeBaseline(cells=(bounds,), counts=counts, nonfinite=nonfinite, mean=zeros, std=zeros)


def empty(baseline: NodeBaseline) -> Window:
    return Window(Cells.from_bounds(baseline.cells, len(baseline.counts)))


@given(st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=1, max_size=30), st.integers(1, 7))
def test_a_window_counts_as_the_exporter_does_in_pieces_too(rows: list[list[float]], step: int) -> None:
    values = np.array(rows, np.float64)
    whole = counted(values)
    window = empty(whole)
    for at in range(0, len(values), step):
        window.add(values[at : at + step])
    assert tuple(tuple(item.tolist()) for item in window.counts) == whole.counts
    assert tuple(window.nonfinite.tolist()) == whole.nonfinite


def test_nodes_may_have_other_numbers_of_cells() -> None:
    """Padding belongs to no node: each node has the drift that it has without the others."""
    rng = np.random.default_rng(4)
    before, now = rng.normal(size=(300, 2)), rng.normal(0.5, 1, size=(200, 2))
    rows = (BOUNDS, (-1.0, 0.0, 1.0))
    alone = [counted(before[:, at : at + 1], bounds) for at, bounds in enumerate(rows)]
    both = dataclasses.replace(alone[0], cells=rows, counts=tuple(item.counts[0] for item in alone))
    window = empty(both)
    window.add(now)
    assert window.lengths.tolist() == [12, 4]
    together = drift.compare(both, 300, window, 200)
    for at, item in enumerate(alone):
        single = empty(item)
        single.add(now[:, at : at + 1])
        expected = drift.compare(item, 300, single, 200)
        for name in ("psi", "js", "wasserstein", "out_of_range", "baseline_out_of_range"):
            np.testing.assert_allclose(getattr(together, name)[at], getattr(expected, name)[0], atol=1e-12)
        level = drift.chi_squared(1 - drift.LEVEL / 2, len(rows[at]))
        assert together.psi_threshold[at] == pytest.approx((1 / 300 + 1 / 200) * level)


def found(before: np.ndarray, now: np.ndarray, nodes: int = 0) -> drift.Drift:
    baseline = counted(before)
    window = empty(baseline)
    window.add(now)
    return drift.compare(baseline, len(before), window, len(now), nodes)


def test_the_same_has_not_moved_and_what_moved_by_one_cell_has_by_one() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(-1.6, 1.2, (5000, 1))
    same, moved = found(values, values), found(values, values + 0.4)  # cells are 0.4 wide
    for numbers in (same.psi, same.js, same.wasserstein):
        np.testing.assert_allclose(numbers, 0.0, atol=1e-12)
    assert not same.drifted.any()
    assert moved.drifted.all()
    assert moved.wasserstein[0] == pytest.approx(1.0, abs=0.01)
    assert 0 < moved.js[0] <= 1


def test_what_lies_outside_is_told_now_and_before() -> None:
    before, now = np.zeros((10, 1)), np.zeros((8, 1))
    before[0], now[:4], now[4] = 9.0, -9.0, np.nan
    item = found(before, now)
    assert (item.baseline_out_of_range[0], item.out_of_range[0]) == (0.1, 4 / 7)
    assert math.isnan(found(before, np.full((2, 1), np.nan)).out_of_range[0])


@spread("nodes, before, now", [(13, 150, 50), (13, 400, 500), (64, 1000, 200), (1, 2000, 1000)], 2, kind="rare")
def test_a_window_in_which_nothing_has_changed_does_not_cry_wolf(nodes: int, before: int, now: int) -> None:
    """At most four of 200 windows report drift: one percent, plus a margin for chance."""
    rng = np.random.default_rng(nodes)
    alarms = 0
    for _ in range(200):
        draw = [rng.normal(0, 0.6, (count, nodes)) for count in (before, now)]
        alarms += bool(found(*draw).drifted.any())
    assert alarms <= 4


@FEWER
@given(SAMPLES, SAMPLES)
def test_drift_is_a_distance_and_the_same_from_both_sides(before: np.ndarray, now: np.ndarray) -> None:
    there, back = found(before, now), found(now, before)
    for name in ("psi", "js", "wasserstein"):
        item, other = getattr(there, name), getattr(back, name)
        assert (item >= -1e-12).all()
        np.testing.assert_allclose(item, other, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(getattr(found(now, now), name), 0.0, atol=1e-12)
    assert (there.js <= 1).all()
    assert (there.wasserstein <= len(counted(before).counts[0]) - 1).all()
    np.testing.assert_allclose(there.psi_threshold, back.psi_threshold)
    np.testing.assert_array_equal(there.out_of_range, back.baseline_out_of_range)
    assert ((there.out_of_range >= 0) & (there.out_of_range <= 1)).all()
    assert there.ratio == pytest.approx(float(np.max(there.psi / there.psi_threshold)))


@given(st.floats(0.5, 0.999999), st.integers(1, 2000))
def test_the_level_of_chance_is_that_of_chi_squared(share: float, degrees: int) -> None:
    exact = scipy.stats.chi2.ppf(share, degrees)
    assert drift.chi_squared(share, degrees) == pytest.approx(exact, rel=1e-9)
    assert drift.chi_squared(share, degrees) <= drift.chi_squared(share, degrees + 1)
    assert drift.chi_squared(share, 0) == 0.0  # one cell has no chance


ROWS = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)


def seen(rows: np.ndarray) -> Baseline:
    """The toy's, of these rows."""
    parts = [counted(values.astype(np.float64)) for values in (rows, toy_model.hidden(rows), toy_model.outputs(rows))]
    return Baseline(
        name="train.npy", sha256="0" * 64, rows=len(rows), mean=(0.0,) * 3, layers=tuple(parts[:2]), outputs=(parts[2],)
    )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The toy with a baseline of 200 rows, one without, and one with the baseline of another model."""
    root = tmp_path_factory.mktemp("drift")
    toy_model.edit(toy_model.write(root), baseline=seen(ROWS[:200]))
    toy_model.write(root, "bare")
    part = counted(ROWS.astype(np.float64))
    other = Baseline(name="a", sha256="b", rows=5, mean=(0.0,) * 3, layers=(part,), outputs=(part,))
    toy_model.edit(toy_model.write(root, "other"), baseline=other)
    with serving(root, statistics_rows_per_second=0) as server:
        yield server


def ask(server: Server, given_rows: np.ndarray | None, **fields: Any) -> kan_pb2.GetStatisticsResponse:
    rows = {} if given_rows is None else {"rows": given_rows.tobytes(), "row_count": len(given_rows)}
    message = kan_pb2.GetStatisticsRequest(**{"model_name": "toy", **rows, **fields})
    return kan_pb2.GetStatisticsResponse.FromString(server.call(f"{KAN}GetStatistics", message.SerializeToString()))


def test_over_rows(watched: Server) -> None:
    rows = ROWS[200:]
    response = ask(watched, rows, id="d1")
    assert (response.id, response.source, response.row_count, response.baseline, response.baseline_rows) == (
        *("d1", "rows", 100),
        *("train.npy", 200),
    )
    with Client(watched.address) as client:
        same = client.drift(client.describe("toy"), rows)
        moved = client.drift(client.describe("toy"), np.concatenate([rows[:, :2], 3 * rows[:, 2:]], axis=1))
        broken = client.drift(client.describe("toy"), np.where(np.arange(3) == 1, np.nan, rows))
    assert [part.layer for part in same.nodes] == [0, 1, -1]
    for part, now, before in zip(
        same.nodes,
        (rows, toy_model.hidden(rows), toy_model.outputs(rows)),
        (ROWS[:200], toy_model.hidden(ROWS[:200]), toy_model.outputs(ROWS[:200])),
        strict=True,
    ):
        expected = found(before.astype(np.float64), now.astype(np.float64), 3 + 4 + 2)
        np.testing.assert_allclose(part.psi, expected.psi, rtol=1e-9)
        np.testing.assert_allclose(part.psi_threshold, expected.psi_threshold)
        assert [item.sum() for item in part.counts] == [100] * len(part.psi)
        assert [len(item) for item in part.bounds] == [len(BOUNDS)] * len(part.psi)
        assert not part.drifted.any()
    assert moved.nodes[0].drifted.tolist() == [False, False, True]
    assert broken.nodes[0].nonfinite.tolist() == [0, 100, 0]


def test_what_has_no_statistics_is_refused_in_words(watched: Server) -> None:
    for fields, code, text in (
        ({"model_name": "bare"}, grpc.StatusCode.FAILED_PRECONDITION, "has no baseline to compare the rows with"),
        ({"rows": b"", "row_count": 0}, grpc.StatusCode.FAILED_PRECONDITION, "does not analyze live traffic"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            ask(watched, None if "rows" in fields else ROWS, **fields)
        assert (caught.value.code(), text in caught.value.details()) == (code, True), caught.value.details()


def test_a_baseline_that_is_missing_or_of_another_model_is_told(watched: Server) -> None:
    with Client(watched.address) as client:
        with pytest.raises(NotSupported) as caught:
            client.drift(client.describe("bare"), ROWS)
        (entry,) = [item for item in client.index() if item.name == "other"]
    assert (caught.value.error_code, "--baseline FILE" in caught.value.hint) == ("baseline-missing", True)
    assert (entry.state, "the baseline has 1 layers, expected 2" in entry.reason) == ("UNAVAILABLE", True), entry.reason
