"""The operator of single edges: its selection, its errors, and queries of models with it and without it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kanexport.contract import custom_ops
from kanexport.contract.custom_ops import KERNEL_FILE
from kanexport.errors import VerificationFailed
from kanexport.lowering import lower
from kanexport.verify import verify
from kanserve.analysis import query_plan
from kanserve.analysis.query_plan import LayerPlan
from kanserve.errors import LoadError
from kanserve.insight import edge_queries
from kanserve.insight.edge_queries import LayerGraph
from kanserve.models.model import Model
from kanserve.types import EdgeOptions, LayerEdges
from tests.kernel import test_custom_operator_model as models
from tests.kernel.test_operator import COEF, GOOD, KNOTS, WEIGHTS, I, O, session
from tests.support import hostile_graphs as hostile
from tests.support.small_checkpoints import read

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
    constants = {"knots": KNOTS, "coef": coef, "weights": weights}
    node = helper.make_node(custom_ops.SPLINE_EDGES, ["x", "k", *constants], ["y"], domain=custom_ops.DOMAIN, **GOOD)
    x, k, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xky")
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(custom_ops.DOMAIN, 1)]
    created = helper.make_model(
        helper.make_graph([node], "g", [x, k], [y], tensors), opset_imports=opsets, ir_version=8
    )
    return bytes(created.SerializeToString())


def number(k: float) -> np.ndarray:
    return np.full((1, 1), k, np.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("outputs", [2, 300, 5000])
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


@pytest.mark.parametrize(
    ("x", "k"),
    [
        (np.zeros((2, I + 1)), number(1)),
        (np.zeros(I), number(1)),
        (np.zeros((2, I)), number(-1)),
        (np.zeros((2, I)), number(0.5)),
        (np.zeros((2, I)), number(I * O + 1)),
        (np.zeros((2, I)), number(1e30)),
        (np.zeros((2, I)), number(math.nan)),
        (np.zeros((2, I)), np.zeros((1, 2), np.float32)),
        (np.zeros((2, I)), np.zeros((0, 1), np.float32)),
        (np.zeros((2, I)), np.zeros(1, np.float32)),
    ],
)
def test_what_is_no_query_is_refused(x: np.ndarray, k: np.ndarray, installed: str) -> None:
    runs = session(installed, graph())
    with pytest.raises(Exception, match="SplineEdges"):
        runs.run(None, {"x": x.astype(np.float32), "k": k})
    assert runs.run(None, {"x": np.zeros((0, I), np.float32), "k": number(2)})[0].shape == (0, 6)


def answers(model: Model, x: np.ndarray) -> list[LayerEdges]:
    """The results of all OPTIONS for many rows and for one row."""
    found: list[LayerEdges] = []
    graphs = model._graph()
    for rows in (x, x[:1]):
        for options in OPTIONS:
            plans = [
                LayerPlan(at, tuple(range(layer.sources)), tuple(range(layer.destinations)), options=options)
                for at, layer in enumerate(graph.layer for graph in graphs)
            ]
            feeds = {model.info.inputs[0].name: rows}
            *_, result = edge_queries.compute(model._session, graphs, tuple(plans), feeds, chunk_bytes=2**14)
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


@pytest.mark.parametrize("name", models.NAMES)
def test_queries_have_one_answer_with_the_operator_and_without(
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
    selected = answers(model, x)
    assert model._graph()[0].has_strongest(1) == (name in SPLINE_CASES)
    assert not portable._graph()[0].has_strongest(1)
    with monkeypatch.context() as patch:
        patch.setattr(LayerGraph, "has_strongest", lambda self, k: False)
        for one, other in zip(selected, answers(model, x), strict=True):
            same(one, other, 0)
            assert (one.sources, one.destinations, one.picked) == (other.sources, other.destinations, other.picked)
            for first, second in zip(one.per_row or (), other.per_row or (), strict=True):
                np.testing.assert_array_equal(first, second)
    for one, other in zip(selected, answers(portable, x), strict=True):
        same(one, other, 1e-5)
    model.close()
    portable.close()


def scaled(root: Path) -> None:
    """Change the scale of the splines of the first layer in the edge graph by the operator."""
    folder = models.bundle_folder(root)
    model = onnx.load(folder / FILE)
    next(a for a in model.graph.node[0].attribute if a.name == "scale").f *= 1.5
    hostile.replaced(folder, model.SerializeToString(), FILE)


def negated(root: Path) -> None:
    """Change the sign of the strongest edges of the first layer, and not of all edges."""
    folder = models.bundle_folder(root)
    model = onnx.load(folder / FILE)
    (node,) = [node for node in model.graph.node if node.op_type == "SplineEdges"]
    (name,), node.output[:] = node.output, ["values"]
    one = helper.make_node("Constant", [], ["one"], value_floats=[1.0])
    model.graph.node.insert(0, one)
    model.graph.node.extend(
        [
            helper.make_node("Min", [custom_ops.STRONGEST, "one"], ["some"]),
            helper.make_node("Add", ["some", "some"], ["twice"]),
            helper.make_node("Sub", ["one", "twice"], ["sign"]),
            helper.make_node("Mul", ["values", "sign"], [name]),
        ]
    )
    hostile.replaced(folder, model.SerializeToString(), FILE)


@pytest.mark.parametrize("change", [scaled, negated])
def test_a_wrong_edge_graph_is_not_used(
    change: Callable[[Path], None], tmp_path: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower, "FEWEST_EDGES", 1)
    models.exported(tmp_path, "pykan-hello-adapted")
    change(tmp_path)
    models.tried(tmp_path)
    model = models.loaded(tmp_path)
    assert not model._graph()[0].has_strongest(1)
    assert model._graph()[1].has_strongest(1)
    model.close()


def test_an_edge_graph_that_does_not_run_is_refused(
    tmp_path: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower, "FEWEST_EDGES", 1)
    models.exported(tmp_path, "pykan-hello-adapted")
    folder = models.bundle_folder(tmp_path)
    hostile.replaced(folder, (folder / "edges_l1.kernel.onnx").read_bytes(), FILE)
    with pytest.raises(LoadError, match=f"{FILE} cannot compute 1 vectors"):
        models.tried(tmp_path)
    model = models.loaded(tmp_path)
    assert not model._graph()[0].has_strongest(1)
    model.close()


def test_an_export_leaves_a_wrong_edge_graph_out(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower, "FEWEST_EDGES", 1)
    kan, _ = read(models.case("pykan-hello-adapted").path)
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
