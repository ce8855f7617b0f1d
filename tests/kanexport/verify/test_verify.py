"""Verification: an error anywhere in a graph is detected, and reports state measured values."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from kanexport.errors import InvalidKan, LimitExceeded, VerificationFailed
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.lowering.lower import Lowered
from kanexport.verify import float64_reference, graph_runner, test_points, verify
from tests.support.small_checkpoints import read


@pytest.fixture
def toy(pykan: Any, tmp_path: Path) -> Kan:
    created = pykan([2, 3, 2])
    created.symbolic(1, 0, 1, "sin", (0.5, 0.1, 0.7, 0.2))
    return read(created.write(tmp_path))[0]


@pytest.fixture
def lowered(toy: Kan) -> Lowered:
    return lower.lower(toy, "float32")


def refused(kan: Kan, lowered: Lowered, match: str | None = None, **changes: Any) -> str:
    with pytest.raises(VerificationFailed, match=match) as caught:
        verify.verify(kan, dataclasses.replace(lowered, **changes), "float32")
    return caught.value.message


def changed(model: bytes, name: str, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The model with one initializer changed."""
    proto = onnx.load_from_string(model)
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    value = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return proto.SerializeToString()


def weights(model: bytes) -> list[str]:
    """Matrices of coefficients among the initializers."""
    initializers = onnx.load_from_string(model).graph.initializer
    large = [t for t in initializers if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) >= 6]
    # A matrix of zeros and ones only says where NaN spreads to; it multiplies x - x.
    return [t.name for t in large if not np.isin(numpy_helper.to_array(t), (0, 1)).all()]


def nudge(value: np.ndarray) -> np.ndarray:
    value.reshape(-1)[value.size // 2] += 3e-2
    return value


def test_any_perturbed_weight_of_a_graph_is_caught(toy: Kan, lowered: Lowered) -> None:
    names = weights(lowered.model)
    assert len(names) >= 4
    for name in names:
        refused(toy, lowered, "differs", model=changed(lowered.model, name, nudge))
    for layer, graph in enumerate(lowered.edges):
        for name in weights(graph):
            edges = list(lowered.edges)
            edges[layer] = changed(graph, name, nudge)
            refused(toy, lowered, rf"edges by .* at .*\({layer},\d+,\d+\)", edges=tuple(edges))


def test_swapped_edge_graphs_are_caught(pykan: Any, tmp_path: Path) -> None:
    """Two layers of one shape: sums by themselves would not show the difference."""
    kan, _ = read(pykan([2, 2, 2]).write(tmp_path))
    both = lower.lower(kan, "float32")
    with pytest.raises((VerificationFailed, InvalidKan, ValueError)):
        verify.verify(kan, dataclasses.replace(both, edges=both.edges[::-1]), "float32")


def surgery(lowered: Lowered, nodes: list[tuple[str, list[str], str]], **constants: Any) -> bytes:
    """The serving graph with nodes after it. They read its output `right` and the mean of its rows, and make `y`."""
    proto, helper = onnx.load_from_string(lowered.model), onnx.helper
    for node in proto.graph.node:
        node.output[:] = ["right" if name == "y" else name for name in node.output]
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    proto.graph.node.append(helper.make_node("ReduceMean", ["right"], ["mean"], axes=[0], keepdims=1))
    proto.graph.node.extend(helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes)
    return proto.SerializeToString()


def add_to_output(lowered: Lowered, low: float, high: float, amount: float) -> Lowered:
    """y + amount where low <= x[:, 0] < high, in plain operators."""
    nodes = [
        ("Slice", ["x", "from", "to", "axis"], "column"),
        ("GreaterOrEqual", ["column", "low"], "above"),
        ("Less", ["column", "high"], "below"),
        ("And", ["above", "below"], "there"),
        ("Where", ["there", "amount", "nil"], "wrong"),
        ("Add", ["right", "wrong"], "y"),
    ]
    numbers = {"low": low, "high": high, "amount": amount, "nil": 0.0}
    places = {"from": [0], "to": [1], "axis": [1]}
    constants = {name: np.float32(value) for name, value in numbers.items()} | places
    return dataclasses.replace(lowered, model=surgery(lowered, nodes, **constants))


def spans(kan: Kan) -> dict[str, tuple[float, float]]:
    """Intervals of x0 that only one zone visits (the cell of a knot is its neighbours)."""
    support = kan.layers[0].support()
    low, high = float(support.core[0][0]), float(support.core[1][0])
    last = float(support.outer[1][0])
    knot = np.float32(support.points[len(support.points) // 2, 0])
    return {
        "inside": (low + 0.01 * (high - low), high - 0.01 * (high - low)),
        "extension": (high + 1e-3, last - 1e-3),
        "far": (last + 1.0, 1e30),
        "knots": (float(np.nextafter(knot, np.float32(-np.inf))), float(np.nextafter(knot, np.float32(np.inf)))),
    }


@pytest.mark.parametrize("zone", ["inside", "extension", "far", "knots"])
def test_an_error_in_any_zone_is_caught(toy: Kan, lowered: Lowered, zone: str) -> None:
    low, high = spans(toy)[zone]
    verify.verify(toy, add_to_output(lowered, low, high, 0.0), "float32")  # the surgery itself is sound
    message = refused(toy, add_to_output(lowered, low, high, 0.5), "outputs by")
    if zone in ("extension", "far"):
        assert zone in message


def test_wrong_behaviour_on_nan_and_infinity_is_caught(toy: Kan, lowered: Lowered) -> None:
    """A graph that cleans its input gives finite outputs for rows with NaN in the model."""
    proto = onnx.load_from_string(lowered.model)
    for node in proto.graph.node:
        node.input[:] = ["clean_" if name == "x" else name for name in node.input]
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nil_"))
    helper = onnx.helper
    proto.graph.node.insert(0, helper.make_node("Where", ["bad_", "nil_", "x"], ["clean_"]))
    proto.graph.node.insert(0, helper.make_node("IsNaN", ["x"], ["bad_"]))
    refused(toy, lowered, r"nonfinite.*expected nan", model=proto.SerializeToString())


def test_a_graph_that_spoils_one_row_by_another_is_caught(toy: Kan, lowered: Lowered) -> None:
    """A sum over the batch: right for one row, wrong among many."""
    nodes = [("Mul", ["mean", "little"], "some"), ("Add", ["right", "some"], "y")]
    refused(toy, lowered, model=surgery(lowered, nodes, little=np.float32(1e-3)))


def test_reports_are_honest(toy: Kan, lowered: Lowered) -> None:
    """The error of the same rows, measured here from the same graphs, is not larger than reported."""
    proof = verify.verify(toy, lowered, "float32")
    zones = {zone.name: zone for zone in proof.verification.zones}
    assert list(zones)[: len(test_points.ZONES)] == list(test_points.ZONES)
    assert len(proof.reference.inputs) == len(proof.reference.outputs) == verify.REFERENCE_ROWS
    assert proof.notes == ()
    session = onnxruntime.InferenceSession(lowered.model, providers=["CPUExecutionProvider"])
    created = test_points.zone_rows(toy.layers[0], toy.n_inputs, seed=0)
    for name, x in created.items():
        zone = zones[name]
        result = session.run(["y"], {"x": x.astype(np.float32)})[0].astype(np.float64)
        expected = float64_reference.evaluate(toy, x).y
        finite = np.isfinite(expected)
        largest = np.abs(result - expected)[finite].max(initial=0)
        assert zone.rows == len(x)
        assert largest <= zone.outputs_max_abs
        assert zone.outputs_max_abs < 1e-3


def test_rows_that_are_not_compared_are_counted(pykan: Any, tmp_path: Path) -> None:
    created = pykan([2, 2])
    created.symbolic(0, 0, 1, "x^5", (1e4, 0.0, 1.0, 0.0))
    kan, _ = read(created.write(tmp_path))
    proof = verify.verify(kan, lower.lower(kan, "float32"), "float32")
    rows = test_points.zone_rows(kan.layers[0], 2, seed=0)["far"]
    beyond = int(np.count_nonzero(float64_reference.evaluate(kan, rows).peak >= 1e30))
    assert 0 < beyond < len(rows)
    (note,) = [note for note in proof.notes if "not compared" in note]
    assert note.startswith(
        f"far rows: {beyond} of {len(rows)} rows are not compared, because they have values beyond 1e+30"
    )


@pytest.mark.parametrize(("tolerance", "factor"), [(1e-5, "32"), (1e-4, "32"), (1e-6, "3.2")])
def test_an_excuse_tells_its_factor(pykan: Any, tmp_path: Path, tolerance: float, factor: str) -> None:
    created = pykan([1, 1])
    created.symbolic(0, 0, 0, "sin", (3e4, 0.0, 1.0, 0.0))
    kan, _ = read(created.write(tmp_path))
    proof = verify.verify(kan, lower.lower(kan, "float32"), "float32", tolerance=tolerance)
    excuses = [note for note in proof.notes if "rounding of nodes and weights by itself" in note]
    assert excuses
    assert all(note.endswith(f", and {factor} times that is accepted") for note in excuses)


def test_a_graph_without_enough_memory_is_no_failed_verification() -> None:
    node = helper.make_node("ConstantOfShape", ["size"], ["y"])
    size = helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None])
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(helper.make_graph([node], "g", [size], [y]), ir_version=8, opset_imports=opsets)
    session = graph_runner.session(model.SerializeToString())
    assert graph_runner.run(session, {"size": np.array([3])})["y"].shape == (3,)
    with pytest.raises(LimitExceeded, match="needs more memory"):
        graph_runner.run(session, {"size": np.array([2**50])})
