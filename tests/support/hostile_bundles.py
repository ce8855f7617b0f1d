"""Hostile graphs, hostile version directories, and random mutations of bundles."""

import hashlib
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kanexport.shared import manifest as manifests
from kanexport.shared.manifest import FileEntry
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
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Tanh", ["s"], ["s_out"])],
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


def noisy() -> bytes:
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


def replaced(directory: Path, data: bytes, name: str = manifests.MODEL_FILE) -> None:
    """Another file in a version, properly listed."""
    (directory / name).write_bytes(data)
    (entry,) = toy_model.listed({name: data})
    others = tuple(item for item in manifests.load(directory).files if item.path != name)
    toy_model.edit(directory, files=(entry, *others))


SECRET = "secret"
Make = Callable[[Path, Path], None]


def listed(path: str) -> Make:
    """A file of the manifest that is outside the version directory."""

    def make(directory: Path, outside: Path) -> None:
        name = path.format(outside=outside)
        entry = FileEntry(path=name, size=(outside / SECRET).stat().st_size, sha256="0" * 64)
        toy_model.edit(directory, files=(*manifests.load(directory).files, entry))

    return make


def instead(swap: Callable[[Path, Path], object], name: str = manifests.MODEL_FILE) -> Make:
    """Something else where a file should be."""

    def make(directory: Path, outside: Path) -> None:
        (directory / name).unlink()
        swap(directory / name, outside)

    return make


def folder(steps: int) -> Make:
    """The version's folder, or the model's, is a link to one outside."""

    def make(directory: Path, outside: Path) -> None:
        place = directory if steps == 0 else directory.parent
        place.rename(outside / "moved")
        place.symlink_to(outside / "moved")

    return make


def graph(data: Callable[[], bytes], name: str = manifests.MODEL_FILE) -> Make:
    """Another graph, properly listed."""
    return lambda directory, outside: replaced(directory, data(), name)


def external(location: str) -> Make:
    """A graph that keeps weights elsewhere."""
    return lambda directory, outside: replaced(
        directory, toy_model.graph(external=True, location=location.format(outside=outside))
    )


def linked_weights(directory: Path, outside: Path) -> None:
    """The version's own file for weights is a link."""
    replaced(directory, (outside / SECRET).read_bytes(), manifests.WEIGHTS_FILE)
    instead(lambda path, place: path.symlink_to(place / SECRET), manifests.WEIGHTS_FILE)(directory, outside)


def hidden_external(place: str) -> Callable[[], bytes]:
    """External data in a constant: of the graph, of a branch, of a function."""

    def data() -> bytes:
        tensor = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"../../../{SECRET}")
        constant = helper.make_node("Constant", [], ["c"], value=tensor)
        added = helper.make_node("Add", ["toy", "c"], ["y"])
        if place == "graph":
            return built([constant, added]).SerializeToString()
        model = onnx.load_model_from_string(branch() if place == "branch" else chained(1))
        nodes = model.graph.node[-1].attribute[0].g.node if place == "branch" else model.functions[0].node
        nodes.insert(0, constant)
        return bytes(model.SerializeToString())

    return data


PATHS: dict[str, Make] = {
    "a listed file above": listed("../../../" + SECRET),
    "a listed file by its whole path": listed("{outside}/" + SECRET),
    "a listed file through a folder": listed("x/../../" + SECRET),
    "a listed file without a name": listed(""),
    "a symbolic link": instead(lambda path, outside: path.symlink_to(outside / SECRET)),
    "a hard link": instead(lambda path, outside: os.link(outside / SECRET, path)),
    "a hard link as manifest": instead(lambda path, outside: os.link(outside / SECRET, path), manifests.FILE_NAME),
    "a pipe": instead(lambda path, outside: os.mkfifo(path)),
    "a folder as file": instead(lambda path, outside: path.mkdir()),
    "a linked version": folder(0),
    "a linked model": folder(1),
    "weights above": external("../../../" + SECRET),
    "weights by their whole path": external("{outside}/" + SECRET),
    "weights in a folder that is not there": external("x/../../" + SECRET),
    "weights in a linked file": linked_weights,
    "weights of a constant": graph(hidden_external("graph")),
    "weights of a constant in a branch": graph(hidden_external("branch")),
    "weights of a constant in a function": graph(hidden_external("function")),
    "sparse weights": graph(sparse),
}
GRAPHS: dict[str, Make] = {
    "a loop": graph(endless),
    "a branch": graph(branch),
    "functions": graph(chained),
    "deep functions": graph(lambda: chained(2000)),
    "a foreign operator": graph(foreign),
    "noise": graph(noisy),
    "two copies of data": graph(dual),
    "data that is too short": graph(short),
    "an unknown field": graph(extra),
    "attributes in attributes": graph(nested),
    "a long chain": graph(long),
    "a size by a value": graph(by_value),
    "gigabytes of a constant": graph(huge),
    "gigabytes for a batch": graph(huge_batch),
    "no edges": graph(lambda: b"none", "edges_l0.onnx"),
    "edges with a loop": graph(endless, "edges_l1.onnx"),
    "edges of another layer": graph(lambda: toy_model.edge_graph(1), "edges_l0.onnx"),
}


EXTREMES: tuple[Any, ...] = (0, -1, 1, 2**31, 2**62, 10**400, 1e308, -1e-300, "", "x" * 300, None, True, [], {}, [[]])
GRAPH_FILES = (manifests.MODEL_FILE, "edges_l0.onnx", "edges_l1.onnx")


def mutate(good: Path, target: Path, seed: int) -> str:
    """A copy of a version in `target`, changed; what was changed."""
    rng = random.Random(seed)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(good, target)
    kind = rng.choice(("graph", "graph", "graph", "manifest", "manifest", "bytes of the manifest", "unlisted"))
    if kind == "manifest":
        _manifest(target, rng)
    elif kind == "bytes of the manifest":
        path = target / manifests.FILE_NAME
        path.write_bytes(_damaged(path.read_bytes(), rng))
    else:
        path = target / rng.choice(GRAPH_FILES)
        path.write_bytes(_damaged(path.read_bytes(), rng))
        if kind == "graph":
            _list(target)
    return kind


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, a part taken out, doubled, moved or put to another value."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(max(1, len(changed)))
        length = rng.choice((1, 1, 2, 4, 8, 32))
        part = changed[at : at + length]
        how = rng.randrange(7)
        if how == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            changed[at : at + length] = rng.randbytes(len(part))
        elif how == 2:
            del changed[at : at + length]
        elif how == 3:
            changed[at:at] = part * rng.choice((1, 3, 100))
        elif how == 4:
            other = rng.randrange(len(changed) + 1)
            changed[other:other] = part
        elif how == 5:
            changed[at : at + length] = rng.choice((b"\xff", b"\x00", b"\x7f")) * len(part)
        else:
            del changed[at:]
    return bytes(changed)


def _manifest(target: Path, rng: random.Random) -> None:
    """A value somewhere becomes an extreme one, or goes away."""
    document = json.loads((target / manifests.FILE_NAME).read_bytes())
    places: list[tuple[Any, Any]] = []
    _places(document, places)
    for _ in range(rng.choice((1, 1, 2))):
        inside, key = rng.choice(places)
        if isinstance(inside, dict) and key in inside and rng.random() < 0.1:
            del inside[key]
        else:
            inside[key] = rng.choice(EXTREMES)
    (target / manifests.FILE_NAME).write_text(json.dumps(document))


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        _places(value[key], found)


def _list(target: Path) -> None:
    """The files as they are now, in the manifest."""
    document = json.loads((target / manifests.FILE_NAME).read_bytes())
    for entry in document["files"]:
        data = (target / entry["path"]).read_bytes()
        entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (target / manifests.FILE_NAME).write_text(json.dumps(document))
