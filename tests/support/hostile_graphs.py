"""Hostile graphs: the bytes of a `model.onnx` with input x [B, 3] and output y [B, 2]."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kanexport.contract import manifest as contract
from kanexport.contract.manifest import FileEntry
from tests.support import toy_model

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def built(
    nodes: list[Any],
    values: list[Any] | None = None,
    *,
    opsets: tuple[tuple[str, int], ...] = (("", 17),),
    functions: tuple[Any, ...] = (),
) -> Any:
    """A model whose y is the last of `nodes`, after the toy's own."""
    supplied = [helper.make_tensor_value_info("x", FLOAT, ["B", 3])]
    wanted = [helper.make_tensor_value_info(name, FLOAT, ["B", size]) for name, size in (("y", 2), ("layer1_in", 4))]
    weights = [numpy_helper.from_array(w, name) for name, w in (("W0", toy_model.W0), ("W1", toy_model.W1))]
    own = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "W0"], ["layer1_in"]),
        helper.make_node("MatMul", ["layer1_in", "W1"], ["toy"]),
    ]
    graph = helper.make_graph([*own, *nodes], "hostile", supplied, wanted, [*weights, *(values or [])])
    imports = [helper.make_opsetid(*item) for item in opsets]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


def endless() -> bytes:
    """A loop that runs 2^62 times, whose outcome is added."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c_out"]),
            helper.make_node("Tanh", ["s"], ["s_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("c", BOOL, []),
            helper.make_tensor_value_info("s", FLOAT, None),
        ],
        [helper.make_tensor_value_info("c_out", BOOL, []), helper.make_tensor_value_info("s_out", FLOAT, None)],
    )
    values = [numpy_helper.from_array(np.array(2**62, np.int64), "n"), numpy_helper.from_array(np.array(True), "go")]
    return built([helper.make_node("Loop", ["n", "go", "toy"], ["y"], body=body)], values).SerializeToString()


def huge() -> bytes:
    """A graph with a constant of eight gigabytes, from which it adds one number."""
    values = [numpy_helper.from_array(np.array([2**31], np.int64), "size"), ints("first", 0)]
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("Gather", ["large", "first"], ["one"]),
        helper.make_node("Add", ["toy", "one"], ["y"]),
    ]
    return built(nodes, values).SerializeToString()


def huge_batch() -> bytes:
    """As many numbers as the rows to the sixth power: nothing for one row, gigabytes for 64."""
    values = [ints("six", 6), ints("first", 0), ints("none", 0)]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "none"], ["rows"]),
        helper.make_node("Pow", ["rows", "six"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("Gather", ["large", "first"], ["one"]),
        helper.make_node("Add", ["toy", "one"], ["y"]),
    ]
    return built(nodes, values).SerializeToString()


def by_value() -> bytes:
    """As many numbers as the first value of a request says."""
    values = [ints("all", -1), ints("first", 0), ints("one_row", 0), ints("floor", 1)]
    nodes = [
        helper.make_node("Reshape", ["x", "all"], ["flat"]),
        helper.make_node("Gather", ["flat", "one_row"], ["top"]),
        helper.make_node("Cast", ["top"], ["whole"], to=INT64),
        helper.make_node("Max", ["whole", "floor"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("Gather", ["large", "first"], ["one"]),
        helper.make_node("Add", ["toy", "one"], ["y"]),
    ]
    return built(nodes, values).SerializeToString()


def branch() -> bytes:
    """One operator, or another."""
    parts = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Identity", ["toy"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, FLOAT, None)],
        )
        for name in ("then", "else")
    }
    return built(
        [helper.make_node("If", ["go"], ["y"], **parts)], [numpy_helper.from_array(np.array(True), "go")]
    ).SerializeToString()


def chained(depth: int = 3) -> bytes:
    """Functions of the model's own, each calling the next."""
    functions = [
        helper.make_function(
            "own",
            f"f{at}",
            ["a"],
            ["b"],
            [
                helper.make_node(f"f{at + 1}", ["a"], ["b"], domain="own")
                if at + 1 < depth
                else helper.make_node("Identity", ["a"], ["b"])
            ],
            [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
        )
        for at in range(depth)
    ]
    node = helper.make_node("f0", ["toy"], ["y"], domain="own")
    return built([node], opsets=(("", 17), ("own", 1)), functions=tuple(functions)).SerializeToString()


def foreign() -> bytes:
    """An operator that is onnxruntime's own."""
    node = helper.make_node("QuickGelu", ["toy"], ["y"], domain="com.microsoft")
    return built([node], opsets=(("", 17), ("com.microsoft", 1))).SerializeToString()


def dual() -> bytes:
    """A tensor that holds one set of weights for who looks, and another for who runs."""
    model = onnx.load_model_from_string(toy_model.graph())
    model.graph.initializer[0].float_data.extend([0.0] * toy_model.W0.size)
    return model.SerializeToString()


def short() -> bytes:
    """A tensor with less data than its shape says."""
    model = onnx.load_model_from_string(toy_model.graph())
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    return model.SerializeToString()


def random() -> bytes:
    """Noise is added."""
    nodes = [helper.make_node("RandomNormalLike", ["toy"], ["noise"]), helper.make_node("Add", ["toy", "noise"], ["y"])]
    return built(nodes).SerializeToString()


def sparse() -> bytes:
    """A sparse tensor, whose parts lie in another file."""
    model = built([helper.make_node("Identity", ["toy"], ["y"])])
    outside = TensorProto(name="v", data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../secret")
    indices = numpy_helper.from_array(np.array([0], np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(outside, indices, [3]))
    return model.SerializeToString()


def extra() -> bytes:
    """A field that ONNX does not have, number 1000."""
    return toy_model.graph() + b"\xc2\x3e\x03abc"


def nested(depth: int = 200) -> bytes:
    """An attribute in an attribute in an attribute."""
    inner = b""
    for _ in range(depth):
        attribute = b"\x0a\x01b" + length(6, inner) + b"\xa0\x01\x05"  # name, g, type
        inner = length(1, b"\x22\x02If" + length(5, attribute))  # a node of a graph
    model = built([helper.make_node("Identity", ["toy"], ["y"])])
    node = model.graph.node.pop().SerializeToString()
    return model.SerializeToString() + length(7, length(1, node + length(5, b"\x0a\x01g" + length(6, inner))))


def length(number: int, data: bytes) -> bytes:
    """A field of protobuf's that holds so many bytes."""
    size, left = bytearray(), len(data)
    while left > 127:
        size.append(left % 128 + 128)
        left //= 128
    return bytes([8 * number + 2, *size, left]) + data


def long(depth: int = 20_001) -> bytes:
    """So many operators, one after the other."""
    names = ["toy", *(f"n{at}" for at in range(depth - 1)), "y"]
    return built(
        [helper.make_node("Identity", pair[:1], pair[1:]) for pair in itertools.pairwise(names)]
    ).SerializeToString()


def ints(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def replaced(directory: Path, data: bytes, name: str = contract.MODEL_FILE) -> None:
    """Another file in a version, properly listed."""
    (directory / name).write_bytes(data)
    entry = FileEntry(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    others = tuple(item for item in contract.load(directory).files if item.path != name)
    toy_model.edit(directory, files=(entry, *others))
