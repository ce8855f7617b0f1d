"""The operator of single edges: its selection, its errors, and queries of models with it and without it."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from kanexport.errors import VerificationFailed
from kanexport.lowering import lower
from kanexport.shared import custom_ops
from kanexport.shared.custom_ops import KERNEL_FILE
from kanexport.verify import verify
from kanserve.analysis import query_plan
from kanserve.analysis.query_plan import LayerPlan
from kanserve.errors import LoadError
from kanserve.insight import edge_queries
from kanserve.insight.edge_queries import LayerGraph
from kanserve.models.model import Model
from kanserve.types import EdgeOptions, LayerEdges
from tests.kernel import test_custom_operator_model as models
from tests.kernel.test_operator import COEF, GOOD, KNOTS, WEIGHTS, I, O, one_node, session
from tests.support import hostile_bundles as hostile
from tests.support.golden_cases import network
from tests.support.tiers import spread

FILE = "edges_l0.kernel.onnx"
SPLINE_CASES = ("efficient-kan-digits", "pykan-hello-adapted", "kanx-hello", "pykan-mult-affine", "pykan-pruned-edges")
OPTIONS = (
    EdgeOptions(top_k=5),
    EdgeOptions(top_k=5, per_row=True, nodes=True),
    EdgeOptions(top_k=10**6, per_row=True),
    EdgeOptions(top_k=7, min_magnitude=0.25),
    EdgeOptions(top_k=4, residual=True),
    EdgeOptions(top_k=3, reductions=("mean",)),
    EdgeOptions(),
)


def graph(coef: np.ndarray = COEF, weights: np.ndarray = WEIGHTS) -> bytes:
    """One operator, with x and k as inputs."""
    return one_node(custom_ops.SPLINE_EDGES, ("x", "k"), {"knots": KNOTS, "coef": coef, "weights": weights}, **GOOD)


def number(k: float) -> np.ndarray:
    return np.full((1, 1), k, np.float32)


@spread("outputs,threads", [(2, 1), (300, 1), (5000, 2), (300, 2)], 2)
def test_the_strongest_are_those_of_a_sort_of_all_edges(outputs: int, threads: int, installed: str) -> None:
    """Few distinct coefficients have many ties, and a source that is not finite has NaN on all of its edges."""
    rng = np.random.default_rng(outputs)
    coef = rng.integers(-3, 3, (len(COEF), outputs)).astype(np.float32) / 2
    runs = session(installed, graph(coef, rng.integers(-1, 2, (I, outputs)).astype(np.float32)), threads)
    x = rng.choice(np.array([0.0, 1.25, 1.5, 9.0, -0.5], np.float32), (70, I))
    x[5, 1], x[6, 0], x[7] = np.nan, np.inf, -9
    values = runs.run(None, {"x": x, "k": number(0)})[0]
    for k in sorted({1, 6, min(500, I * outputs), min(custom_ops.MOST_STRONGEST, I * outputs)}):
        found, sources, destinations = np.split(runs.run(None, {"x": x, "k": number(k)})[0], 3, axis=1)
        expected = query_plan.strongest_each(values.reshape(len(x), I, outputs), k)
        assert (sources * outputs + destinations).tolist() == expected.tolist()
        assert found.tobytes() == np.take_along_axis(values, expected, axis=1).tobytes()


def test_what_is_no_query_is_refused(installed: str) -> None:
    runs, x = session(installed, graph()), np.zeros((2, I))
    counts = [number(k) for k in (-1, 0.5, I * O + 1, 1e30, math.nan)]
    shapes = [np.zeros(shape, np.float32) for shape in ((1, 2), (0, 1), (1,))]
    for rows, k in ((np.zeros((2, I + 1)), number(1)), (x[0], number(1)), *((x, k) for k in (*counts, *shapes))):
        with pytest.raises(Exception, match="SplineEdges"):
            runs.run(None, {"x": rows.astype(np.float32), "k": k})
    assert runs.run(None, {"x": np.zeros((0, I), np.float32), "k": number(2)})[0].shape == (0, 6)


def responses(model: Model, x: np.ndarray) -> list[LayerEdges]:
    """The results of all OPTIONS for many rows and for one row."""
    found: list[LayerEdges] = []
    graphs = model.edge_graphs
    for rows in (x, x[:1]):
        for options in OPTIONS:
            plans = [
                LayerPlan(at, tuple(range(layer.sources)), tuple(range(layer.destinations)), options=options)
                for at, layer in enumerate(graph.layer for graph in graphs)
            ]
            feeds = {model.info.inputs[0].name: rows}
            *_, result = edge_queries.compute(model.session, graphs, tuple(plans), feeds, chunk_bytes=2**14)
            assert result is not None
            found += result
    return found


def numbers(layer: LayerEdges) -> list[Any]:
    return [layer.values, layer.residual, layer.nodes, *(values for _, values in layer.reductions)]


def same(one: LayerEdges, other: LayerEdges, tolerance: float) -> None:
    for first, second in zip(numbers(one), numbers(other), strict=True):
        if first is None or second is None:
            assert first is second
        elif tolerance:
            first, second = np.abs(first), np.abs(second)  # two edges of nearly one magnitude may change places
            np.testing.assert_allclose(first, second, rtol=tolerance, atol=tolerance * second.max(initial=0))
        else:
            assert first.dtype == second.dtype
            assert first.shape == second.shape
            assert first.tobytes() == second.tobytes()


@spread("name", models.NAMES, 2)
def test_queries_have_one_response_with_the_operator_and_without(
    name: str, tmp_path: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The selection by the operator has the bits of a selection among all of its edges. The portable edge graph gives
    the same values within the tolerance."""
    monkeypatch.setattr(lower, "FEWEST_EDGES", 1)
    result = models.exported(tmp_path, name)
    assert (FILE in {entry.path for entry in result.manifest.files}) == (name in SPLINE_CASES)
    models.tried(tmp_path)
    x = models.rows(result, 20)
    model, portable = models.loaded(tmp_path), models.loaded(tmp_path, kernel=False)
    selected = responses(model, x)
    assert model.edge_graphs[0].has_strongest(1) == (name in SPLINE_CASES)
    assert not portable.edge_graphs[0].has_strongest(1)
    with monkeypatch.context() as patch:
        patch.setattr(LayerGraph, "has_strongest", lambda self, k: False)
        for one, other in zip(selected, responses(model, x), strict=True):
            same(one, other, 0)
            assert (one.sources, one.destinations, one.picked) == (other.sources, other.destinations, other.picked)
            for first, second in zip(one.per_row or (), other.per_row or (), strict=True):
                np.testing.assert_array_equal(first, second)
    for one, other in zip(selected, responses(portable, x), strict=True):
        same(one, other, 1e-5)
    model.close()
    portable.close()


def negated(model: onnx.ModelProto) -> None:
    """Change the sign of the strongest edges of the layer, and not of all edges."""
    (node,) = [node for node in model.graph.node if node.op_type == "SplineEdges"]
    (name,), node.output[:] = node.output, ["values"]
    one = helper.make_node("Constant", [], ["one"], value_floats=[1.0])
    model.graph.node.insert(0, one)
    for kind, inputs, output in (
        ("Min", [custom_ops.STRONGEST, "one"], "some"),
        ("Add", ["some", "some"], "twice"),
        ("Sub", ["one", "twice"], "sign"),
        ("Mul", ["values", "sign"], name),
    ):
        model.graph.node.append(helper.make_node(kind, inputs, [output]))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of any size have an edge graph by the operator."""
    monkeypatch.setattr(lower, "FEWEST_EDGES", 1)


@spread("change", [negated, models.scaled], 1)
@pytest.mark.usefixtures("installed", "few")
def test_a_wrong_edge_graph_is_not_used(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    models.exported(tmp_path, "pykan-hello-adapted")
    models.damaged(tmp_path, change, FILE, FILE)
    models.tried(tmp_path)
    model = models.loaded(tmp_path)
    assert not model.edge_graphs[0].has_strongest(1)
    assert model.edge_graphs[1].has_strongest(1)
    model.close()


@pytest.mark.usefixtures("installed", "few")
def test_an_edge_graph_that_does_not_run_is_refused(tmp_path: Path) -> None:
    models.exported(tmp_path, "pykan-hello-adapted")
    folder = models.bundle_folder(tmp_path)
    hostile.replaced(folder, (folder / "edges_l1.kernel.onnx").read_bytes(), FILE)
    with pytest.raises(LoadError, match=f"{FILE} cannot compute 1 vectors"):
        models.tried(tmp_path)
    model = models.loaded(tmp_path)
    assert not model.edge_graphs[0].has_strongest(1)
    model.close()


@pytest.mark.usefixtures("installed", "few")
def test_an_export_leaves_a_wrong_edge_graph_out() -> None:
    kan = network("pykan-hello-adapted")
    lowered = lower.lower(kan, "float32", kernel=True, kernel_optional=True)
    good = verify.verify(kan, lowered, "float32")
    assert max(zone.edges_max_rel for zone in good.verification.kernel) <= 1e-5
    wrong = onnx.load_from_string(lowered.kernel_edges[0])
    next(a for a in wrong.graph.node[0].attribute if a.name == "scale").f *= 1.001
    changed = dataclasses.replace(lowered, kernel_edges={0: wrong.SerializeToString()})
    failed = verify.verify(kan, changed, "float32")
    assert not failed.verification.kernel
    assert any(note.startswith(f"{KERNEL_FILE} was not written: ") for note in failed.notes)
    with pytest.raises(VerificationFailed, match=KERNEL_FILE):
        verify.verify(kan, dataclasses.replace(changed, kernel_optional=False), "float32")
