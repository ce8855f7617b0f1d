"""Model of one layer with very many edges, W[i, j] * tanh(x_i), and a mask: large or slow responses."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kanexport.contract import manifest as contract
from kanexport.contract.manifest import FileEntry, TensorSpec
from tests.support import toy_model


def weights(width: int) -> np.ndarray:
    """[width, width], with the largest weights on the diagonal."""
    rng = np.random.default_rng(0)
    return (rng.uniform(-0.5, 0.5, (width, width)) + 2 * np.eye(width)).astype(np.float32) / width


def write(repository: Path, width: int, name: str = "wide") -> None:
    """The model in version 1."""
    values = weights(width)
    graphs = {contract.MODEL_FILE: _serving(values), "edges_l0.onnx": _edges(values)}
    target = repository / name / "1"
    target.mkdir(parents=True)
    for path, data in graphs.items():
        (target / path).write_bytes(data)
    created = toy_model.manifest(name)
    mask = tuple(tuple(row) for row in (np.abs(values) > 0).astype(float).tolist())
    layer = dataclasses.replace(
        created.layers[0], sources=width, destinations=width, active_edges=width * width, mask=mask
    )
    rows = np.linspace(-2, 2, 2 * width).reshape(2, width)
    reference = contract.Reference(
        inputs=tuple(map(tuple, rows.tolist())),
        outputs=tuple(map(tuple, (np.tanh(rows) @ values).tolist())),
        tolerance=1e-4,
    )
    changes = {
        "inputs": (TensorSpec(name="x", datatype="FP32", shape=(-1, width)),),
        "outputs": (TensorSpec(name="y", datatype="FP32", shape=(-1, width)),),
        "layers": (layer,),
        "reference": reference,
        "files": tuple(
            FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in graphs.items()
        ),
    }
    whole = dataclasses.replace(created, **changes)
    bare, numbers = contract.parts(whole)
    if numbers is not None:  # as an export writes a large manifest
        (target / contract.NUMBERS_FILE).write_bytes(numbers)
        entry = FileEntry(path=contract.NUMBERS_FILE, size=len(numbers), sha256=hashlib.sha256(numbers).hexdigest())
        bare = dataclasses.replace(bare, files=(*bare.files, entry))
    toy_model.save(target, bare)


def _serving(values: np.ndarray) -> bytes:
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("MatMul", ["t", "W"], ["y"])]
    inputs, outputs = [("x", ["B", len(values)])], [("y", ["B", len(values)])]
    return toy_model.model(nodes, inputs, outputs, [numpy_helper.from_array(values, "W")], TensorProto.FLOAT)


def _edges(values: np.ndarray) -> bytes:
    constants = [
        numpy_helper.from_array(values[None], "W"),
        numpy_helper.from_array(np.array([2], np.int64), "axis"),
    ]
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Unsqueeze", ["t", "axis"], ["u"]),
        helper.make_node("Mul", ["u", "W"], ["edges"]),
    ]
    inputs, outputs = [("x", ["B", len(values)])], [("edges", ["B", *values.shape])]
    return toy_model.model(nodes, inputs, outputs, constants, TensorProto.FLOAT)
