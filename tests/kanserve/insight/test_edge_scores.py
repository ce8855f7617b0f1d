"""Edge scores from counted traffic, compared with scores from its rows."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kanexport.pipeline import Request, export
from kanexport.shared import manifest as manifests
from kanexport.shared.manifest import NodeStep
from kanserve.analysis import scores
from kanserve.analysis.scores import Weighted
from kanserve.client.errors import InvalidInput, NotSupported
from kanserve.client.sync import Client
from kanserve.insight import edge_scores
from kanserve.insight.edge_queries import LayerGraph
from kanserve.insight.statistics import Nodes
from kanserve.runtime import ort
from kanserve.runtime.base import SessionOptions
from kanserve.types import LayerScores
from tests.kanserve.analysis import test_drift
from tests.support import toy_model
from tests.support.golden_cases import Case, cases
from tests.support.reload_tools import draw
from tests.support.server_process import Server, serving
from tests.support.tiers import full, spread
from tests.support.wait import until

NUMBERS = st.floats(-5, 5, width=32)


@settings(max_examples=settings.default.max_examples // 5)
@given(
    hnp.arrays(np.float64, (6, 3, 2), elements=NUMBERS),
    hnp.arrays(np.int64, (6, 3), elements=st.integers(0, 4)),
    st.integers(0, 6),
)
def test_weights_are_as_good_as_values_that_come_again(values: np.ndarray, weights: np.ndarray, cut: int) -> None:
    weighted = Weighted(3, 2)
    for part in (slice(0, cut), slice(cut, None)):
        weighted.add(values[part], weights[part].astype(np.float64))
    for source in range(3):
        repeated = np.repeat(values[:, source], weights[:, source], axis=0)
        if len(repeated) < 2:
            assert np.isnan(weighted.std()[source]).all()
        else:
            np.testing.assert_allclose(weighted.std()[source], repeated.std(axis=0, ddof=1), atol=1e-6)


def test_what_has_no_weight_may_be_anything() -> None:
    weighted = Weighted(1, 1)
    weighted.add(np.array([np.nan, 1.0, 3.0]).reshape(3, 1, 1), np.array([[0.0], [1.0], [1.0]]))
    assert weighted.std()[0, 0] == pytest.approx(np.sqrt(2))


AFFINE = NodeStep(kind="affine", scale=(2.0, -4.0), bias=(1.0, 0.0))


@pytest.mark.parametrize(
    ("after", "given_", "expected", "counted"),
    [
        ((), np.array([1.0, 2.0]), [1.0, 2.0], True),
        ((AFFINE,), np.array([1.0, 2.0]), [0.5, 0.5], True),
        ((dataclasses.replace(AFFINE, scale=(0.0, 1.0)),), np.array([1.0, 2.0]), [5.0, 0.0], False),
        ((NodeStep(kind="product", indices=(2,)),), np.array([1.0]), [5.0, 0.0], False),
        ((), None, [5.0, 0.0], False),
        ((), np.array([1.0]), [5.0, 0.0], False),
    ],
)
def test_the_spread_of_sums_is_what_was_counted_where_it_can_be(
    after: tuple[NodeStep, ...], given_: np.ndarray | None, expected: list[float], counted: bool
) -> None:
    layer = dataclasses.replace(toy_model.manifest("toy").layers[0], post_steps=after)
    edges = np.array([[3.0, 0.0], [4.0, 0.0]])
    result, was_counted = scores.sums(layer, edges, given_)
    assert (result.tolist(), was_counted) == (pytest.approx(expected), counted)


def apart(actual: tuple[LayerScores, ...], expected: tuple[LayerScores, ...], what: str) -> float:
    """The largest difference, by the largest of its layer."""
    pairs = [(getattr(item, what), getattr(other, what)) for item, other in zip(actual, expected, strict=True)]
    return max(float(np.abs(item - other).max() / np.abs(other).max()) for item, other in pairs)


GOLDEN = [
    case
    for case in cases()
    if case.name in ("pykan-hello-adapted", "pykan-diabetes", "efficient-kan-digits", "wav-kan-mexican-hat-wine")
]


@spread("case", GOLDEN, 1, ids=lambda case: case.name)
def test_scores_over_counts_are_those_over_the_rows_that_were_counted(case: Case, tmp_path: Path) -> None:
    """Within 2 % of the largest of a layer; without an edge evaluated for a row."""
    folder = export(Request(path=case.path, repository=tmp_path, name="m")).directory
    result = manifests.load(folder)
    open_ = functools.partial(ort.create, options=SessionOptions("cpu", 1), beside={})
    session = open_((folder / "model.onnx").read_bytes())
    graphs = tuple(
        LayerGraph(layer, functools.partial(open_, (folder / layer.edges_file).read_bytes())) for layer in result.layers
    )
    drawn = np.array(result.reference.inputs)
    rows = np.random.default_rng(1).normal(drawn.mean(axis=0), drawn.std(axis=0), (1500, drawn.shape[1]))
    rows[:, 0] = rows[:, -1] ** 2  # sources that go together
    feeds = {result.inputs[0].name: rows.astype(np.float32)}
    nodes = Nodes(result, session.run)
    ((live, notes),) = filter(None, edge_scores.traffic_scores(graphs, result, nodes.count(session.run, feeds)))
    (exact,) = filter(None, edge_scores.edge_scores(session, graphs, result, feeds, chunk_bytes=2**25))
    assert notes == ()
    for what in ("std", "edges", "nodes"):
        assert apart(live, exact, what) < 0.02, what


@full("combination")
@pytest.mark.parametrize("case", GOLDEN[:2], ids=lambda case: case.name)
def test_scores_over_a_baseline_are_those_over_its_rows(case: Case, tmp_path: Path) -> None:
    """Within 10% of the largest score of a layer, since an export keeps counts per grid interval and no rows."""
    plain = manifests.load(export(Request(path=case.path, repository=tmp_path, name="plain")).directory)
    drawn = np.array(plain.reference.inputs)
    rows = np.random.default_rng(1).normal(drawn.mean(axis=0), drawn.std(axis=0) / 2, (1500, drawn.shape[1]))
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    export(Request(path=case.path, repository=tmp_path / "served", name="toy", baseline=tmp_path / "rows.npy"))
    with serving(tmp_path / "served") as server, Client(server.address) as client:
        described = client.describe("toy")
        exact = client.scores(described, rows.astype(np.float32))
        for source in ("baseline", "best"):
            result = client.scores(described, source=source)
            assert (result.source, result.row_count) == ("baseline", 1500)
            assert "the export stores counts of these rows" in result.notes[0]
            for item, other in zip(result.layers, exact.layers, strict=True):
                for what in ("edges", "nodes"):
                    reported, true = getattr(item, what), getattr(other, what)
                    assert np.abs(reported - true).max() < 0.1 * np.abs(true).max(), (source, what)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`toy`, and `mixed`: the toy with edges of class B, which have no curves, and a baseline."""
    root = tmp_path_factory.mktemp("toys")
    toy_model.write(root)
    directory = toy_model.write(root, "mixed")
    layers = manifests.load(directory).layers
    layers = (dataclasses.replace(layers[0], edge_class="B"), layers[1])
    toy_model.edit(directory, layers=layers, edge_class="B", baseline=test_drift.seen(test_drift.ROWS[:200]))
    with serving(root) as server:
        yield server


def test_without_a_baseline_the_best_are_the_reference_rows(toys: Server) -> None:
    with Client(toys.address) as client:
        described = client.describe("toy")
        with pytest.raises(NotSupported, match="scores of model 'toy' need 2 or more rows, found 0"):
            client.scores(described, source="baseline")
        best, usual = client.scores(described, source="best"), client.scores(described)
        assert (best.source, best.row_count) == (usual.source, usual.row_count) == ("reference", usual.row_count)
        for ask, words in (
            ({"rows": draw(8), "source": "baseline"}, "the source 'baseline' cannot be combined with rows"),
            ({"rows": draw(8), "source": "live"}, "the source 'live' cannot be combined with rows"),
            ({"source": "ever"}, "unknown source 'ever'"),
        ):
            with pytest.raises(InvalidInput, match=words):
                client.scores(described, **ask)


def test_edges_that_are_no_curves_have_no_scores_of_counts(toys: Server) -> None:
    toys.infer(draw(8), "mixed")
    with Client(toys.address) as client:
        described = client.describe("mixed")
        assert client.scores(described, source="best").source == "reference"
        with pytest.raises(NotSupported, match="layer 0 of model 'mixed' is of edge class B"):
            client.scores(described, source="live")


def test_live_scores_over_the_wire(toys: Server) -> None:
    with Client(toys.address) as client:
        client.reset_statistics("toy")
        described, rows = client.describe("toy"), draw(200)
        with pytest.raises(NotSupported, match="scores of model 'toy' need 2 or more rows, found 0"):
            client.scores(described, source="live")
        toys.infer(rows[:64])
        for at in range(64, 200, 17):
            toys.infer(rows[at : at + 17])
        until(lambda: client.statistics("toy").row_count == 200)
        live, exact = client.scores(described, source="live"), client.scores(described, rows)
        assert (live.source, live.row_count, live.notes) == ("live", 200, ())
        for item, other in zip(live.layers, exact.layers, strict=True):
            np.testing.assert_allclose(item.edges, other.edges, rtol=0.02)
            np.testing.assert_allclose(item.nodes, other.nodes, rtol=0.02)
        rows[3, 1] = np.nan
        toys.infer(rows[:8])
        until(lambda: client.statistics("toy").row_count == 208)
        note = "5 values of nodes were not finite, and are in no score"
        assert client.scores(described, source="live").notes == (note,)
