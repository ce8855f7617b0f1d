"""The load check, step by step in the test process: each fault and its message."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kanexport.shared import manifest as manifests
from kanexport.shared.sections import ExplainedTensor, Explanations
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.runtime import ort
from kanserve.runtime.base import SessionOptions
from kanserve.sandbox import job, process
from kanserve.sandbox.job import Job
from tests.support import hostile_bundles as hostile
from tests.support import toy_model
from tests.support.bad_requests import not_loaded

NAMES = (manifests.MODEL_FILE, "edges_l0.onnx", "edges_l1.onnx")


def tried(files: dict[str, bytes] | None = None, *, plain: bool = False, device: str = "cpu", **changes: Any) -> None:
    """The toy with other files and another manifest. Raises what the load check raises."""
    own = dict(zip(NAMES, (toy_model.graph(), toy_model.edge_graph(0), toy_model.edge_graph(1)), strict=True))
    data = {**own, **(files or {})}
    manifest = (
        None
        if plain
        else manifests.dumps(job.stripped(dataclasses.replace(toy_model.manifest("toy"), **changes))).decode()
    )
    sizes = {name: len(item) for name, item in data.items()}
    process.try_out(Job(SessionOptions(device, 1), True, 8, 60, 2**30, sizes, manifest), data)


def layer(at: int, **changes: Any) -> dict[str, Any]:
    layers = list(toy_model.manifest("toy").layers)
    layers[at] = dataclasses.replace(layers[at], **changes)
    return {"layers": tuple(layers)}


def reference(change: Callable[[manifests.Reference], manifests.Reference]) -> dict[str, Any]:
    return {"reference": change(toy_model.manifest("toy").reference)}


def edges(*nodes: Any, takes: str = "layer1_in", kind: int = TensorProto.FLOAT) -> dict[str, bytes]:
    """Another edge graph for layer 1."""
    values = [
        numpy_helper.from_array(toy_model.W1[None], "W"),
        numpy_helper.from_array(np.array([2], np.int64), "axis"),
        numpy_helper.from_array(np.array([7, 9], np.int64), "odd"),
    ]
    return {"edges_l1.onnx": toy_model.model(list(nodes), [(takes, ["B", 4])], [("edges", None)], values, kind)}


def falsely() -> bytes:
    """The toy with twice its output."""
    values = [numpy_helper.from_array(w, name) for name, w in (("W0", toy_model.W0), ("W1", 2 * toy_model.W1))]
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "W0"], ["layer1_in"]),
        helper.make_node("MatMul", ["layer1_in", "W1"], ["y"]),
    ]
    outputs = [("y", ["B", 2]), ("layer1_in", ["B", 4])]
    return toy_model.model(nodes, [("x", ["B", 3])], outputs, values, TensorProto.FLOAT)


def explaining(graph: bytes, **changes: Any) -> dict[str, Any]:
    """An explaining graph next to the toy: its layers, and its entry in the manifest."""
    y = ExplainedTensor(name="y", datatype="FP32", shape=(-1, 2), holds="output", layer=-1)
    tensors = (y, dataclasses.replace(y, name="layer1_in", shape=(-1, 4), holds="nodes", layer=1))
    reported = dataclasses.replace(Explanations(file="explain.onnx", tensors=tensors), **changes)
    return {"files": {"explain.onnx": graph}, "explanations": reported}


def for_many(graph: bytes) -> dict[str, Any]:
    """A second graph next to the toy, for runs of many rows."""
    return {
        "files": {manifests.MANY_FILE: graph},
        "variants": (manifests.Variant(file=manifests.MANY_FILE, rows=256, zones=()),),
    }


NODE = helper.make_node
OTHER = ExplainedTensor(name="e", datatype="FP32", shape=(-1,), holds="", layer=0)
MISMATCH: dict[str, dict[str, Any]] = {
    "layer 1: the graph has no tensor 'h'": layer(1, node_tensor="h"),
    "layer 1: 'layer1_in' is FP32 [-1, 4], expected": layer(1, positions=(5,)),
    "gives float32 [1, 4, 2], expected [1, 5, 2]": layer(1, sources=5),
    "edges_l1.onnx has no output 'e'": layer(1, edges_tensor="e"),
    "the only input of edges_l0.onnx is not 'layer1_in'": layer(1, edges_file="edges_l0.onnx"),
    "edges_l1.onnx cannot compute one vector": {"files": edges(NODE("Reshape", ["layer1_in", "odd"], ["edges"]))},
    "explain.onnx does not have the output 'e'": explaining(toy_model.graph(), tensors=(OTHER,)),
    "the inputs of explain.onnx differ": explaining(toy_model.edge_graph(1)),
    "model_many.onnx: the inputs of the graph differ": for_many(toy_model.edge_graph(1)),
}
REFERENCE: dict[str, dict[str, Any]] = {
    "reference outputs differ by": reference(lambda result: dataclasses.replace(result, outputs=((0.5, 0.5),) * 4)),
    "explain.onnx: reference outputs differ by": explaining(falsely()),
    "model_many.onnx: reference outputs differ by": for_many(falsely()),
}
# "explain.onnx" is handed on to others, though it is not run here.
LOOP = {"files": {"explain.onnx": hostile.endless()}, "explanations": Explanations(file="explain.onnx")}
STRUCTURE: dict[str, dict[str, Any]] = {
    "explain.onnx: operator 'Loop'": LOOP,
    "model_many.onnx: operator 'Loop'": for_many(hostile.endless()),
    "depends on values": {"files": {"model.onnx": hostile.by_value()}},
}
INTEGERS = edges(NODE("Cast", ["layer1_in"], ["c"], to=TensorProto.INT64), NODE("Identity", ["c"], ["edges"]))
RAGGED = reference(lambda result: dataclasses.replace(result, outputs=((0.5,), (0.5, 1.0)) * 2))


@pytest.mark.parametrize(
    ("changes", "reason", "text"),
    [
        *((changes, LoadReason.MISMATCH, text) for text, changes in MISMATCH.items()),
        *((changes, LoadReason.REFERENCE, text) for text, changes in REFERENCE.items()),
        *((changes, LoadReason.STRUCTURE, text) for text, changes in STRUCTURE.items()),
        ({"files": INTEGERS}, LoadReason.RUNTIME, "cannot load the graph"),
        (RAGGED, LoadReason.MANIFEST, "differ in length"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, Any], reason: LoadReason, text: str) -> None:
    with not_loaded(reason, text):
        tried(**changes)


def test_what_fits_passes() -> None:
    tried()
    tried(**explaining(toy_model.graph()))
    tried(plain=True)
    tried(**reference(lambda result: dataclasses.replace(result, inputs=(), outputs=())))
    # A graph may dislike zeros: the server measures with zeros, and does without.
    sizes = [numpy_helper.from_array(np.array([3, 5], np.int64), "odd")]
    nodes = [NODE("Reshape", ["x", "odd"], ["y"])]
    tried(
        {"model.onnx": toy_model.model(nodes, [("x", ["B", 3])], [("y", None)], sizes, TensorProto.FLOAT)}, plain=True
    )
    with pytest.raises(ConfigError, match="cuda"):  # a device is not a fault of the version
        tried(device="cuda")


@pytest.mark.parametrize("place", ["name", "extent"])
def test_words_of_a_graph_that_are_not_utf_8_are_a_fault_of_the_graph(place: str) -> None:
    """The runtime hands them over as they are, as mutants have shown."""
    data = toy_model.graph()
    old = b"\x0a\x01x" if place == "name" else b"\x12\x01B"
    assert old in data
    with pytest.raises(LoadError) as caught:
        tried({"model.onnx": data.replace(old, old[:2] + b"\xeb")}, plain=True)
    assert caught.value.reason in (LoadReason.RUNTIME, LoadReason.STRUCTURE)


def test_the_load_check_limits_optimizations_as_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    create, seen = ort.create, []

    def recorded(graph: bytes, options: SessionOptions, **more: Any) -> ort.OrtSession:
        seen.append(more["optimization"])
        return create(graph, options, **more)

    monkeypatch.setattr(ort, "create", recorded)
    tried(optimization=manifests.BASIC)
    assert seen == [manifests.BASIC] * len(NAMES)
