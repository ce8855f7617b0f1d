"""KAN small enough to check by hand, as a version directory; with a config.pbtxt or other manifests."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from kanexport.shared import manifest as manifests
from kanexport.shared.manifest import FileEntry, LayerInfo, Manifest, Reference, Source, TensorSpec, Verification
from kanserve.config.settings import Settings
from kanserve.models.loader import Loader
from kanserve.models.model import Model
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout, pbtxt

W0 = np.array([[1, -2, 0.5, 3], [0, 1, 2, -1], [4, 0.25, -1, 1]], np.float32)
W1 = np.array([[1, -1], [2, 0.5], [-3, 1], [0.5, 2]], np.float32)
TYPES = {"FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE}
DTYPES = {"FP32": np.float32, "FP64": np.float64}
BATCH = 64


def hidden(x: np.ndarray) -> np.ndarray:
    """[B, 3] -> [B, 4]."""
    return np.tanh(x) @ W0.astype(x.dtype)


def outputs(x: np.ndarray) -> np.ndarray:
    """[B, 3] -> [B, 2]."""
    return hidden(x) @ W1.astype(x.dtype)


def edges(x: np.ndarray, layer: int) -> np.ndarray:
    """[B, 3] -> [B, S, D] of one layer."""
    if layer == 0:
        return np.tanh(x)[:, :, None] * W0.astype(x.dtype)
    return hidden(x)[:, :, None] * W1.astype(x.dtype)


def graph(datatype: str = "FP32", *, external: bool = False, location: str = manifests.WEIGHTS_FILE) -> bytes:
    """The serving graph. `external`: refers to weights in another file, called `location`."""
    kind, dtype = TYPES[datatype], DTYPES[datatype]
    weights = [numpy_helper.from_array(w.astype(dtype), name) for name, w in (("W0", W0), ("W1", W1))]
    if external:
        weights[0].ClearField("raw_data")
        weights[0].data_location = TensorProto.EXTERNAL
        weights[0].external_data.add(key="location", value=location)
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "W0"], ["layer1_in"]),
        helper.make_node("MatMul", ["layer1_in", "W1"], ["y"]),
    ]
    return model(nodes, [("x", ["B", 3])], [("y", ["B", 2]), ("layer1_in", ["B", 4])], weights, kind)


def edge_graph(layer: int, datatype: str = "FP32") -> bytes:
    """Node vector of one layer -> its edge values."""
    kind, dtype = TYPES[datatype], DTYPES[datatype]
    name, wide, weight = (("x", 3, W0), ("layer1_in", 4, W1))[layer]
    values = [
        numpy_helper.from_array(weight.astype(dtype)[None], "W"),
        numpy_helper.from_array(np.array([2], np.int64), "axis"),
    ]
    nodes = [
        helper.make_node("Tanh", [name], ["n"]) if layer == 0 else helper.make_node("Identity", [name], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["u"]),
        helper.make_node("Mul", ["u", "W"], ["edges"]),
    ]
    return model(nodes, [(name, ["B", wide])], [("edges", ["B", *weight.shape])], values, kind)


def write(
    repository: Path,
    name: str = "toy",
    version: int = 1,
    *,
    datatype: str = "FP32",
    tolerance: float = 1e-5,
    reference_scale: float = 1.0,
    directory: Path | None = None,
) -> Path:
    """A version directory under `repository`. A `reference_scale` other than 1 makes the verification fail."""
    files = {
        manifests.MODEL_FILE: graph(datatype),
        "edges_l0.onnx": edge_graph(0, datatype),
        "edges_l1.onnx": edge_graph(1, datatype),
    }
    target = directory or repository / name / str(version)
    return put(target, files, manifest(name, version, datatype, tolerance, reference_scale))


def put(target: Path, files: Mapping[str, bytes], about: Manifest) -> Path:
    """A version directory with these files, the manifest last."""
    target.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        (target / path).write_bytes(data)
    save(target, dataclasses.replace(about, files=listed(files)))
    return target


def listed(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """The entries of files in a manifest."""
    return tuple(
        FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in files.items()
    )


def manifest(
    name: str, version: int = 1, datatype: str = "FP32", tolerance: float = 1e-5, scale: float = 1.0
) -> Manifest:
    """Return the manifest of the toy model, without its files."""
    rows = np.linspace(-2, 2, 12).reshape(4, 3)
    return Manifest(
        format=manifests.FORMAT,
        name=name,
        version=version,
        created="2026-01-01T00:00:00Z",
        exporter_version="0",
        edge_class="A",
        opset=17,
        max_batch_size=BATCH,
        inputs=(TensorSpec(name="x", datatype=datatype, shape=(-1, 3)),),
        outputs=(TensorSpec(name="y", datatype=datatype, shape=(-1, 2)),),
        layers=(_layer(3, 4, "x", 0), _layer(4, 2, "layer1_in", 1)),
        source=Source(
            family="toy",
            family_reason="built by a test",
            dtype="float32",
            files=(),
            options_given={},
            options_assumed={},
        ),
        verification=Verification(outputs_tolerance=1e-5, edges_tolerance=5e-5, runtime="none", zones=()),
        reference=Reference(
            inputs=tuple(map(tuple, rows.tolist())),
            outputs=tuple(map(tuple, (outputs(rows) * scale).tolist())),
            tolerance=tolerance,
        ),
        files=(),
        notes=("a toy",),
    )


def write_graphs(repository: Path, graphs: Mapping[str, bytes]) -> None:
    """Graphs without a manifest, each as version 1 of a model."""
    for name, data in graphs.items():
        directory = repository / name / "1"
        directory.mkdir(parents=True)
        (directory / manifests.MODEL_FILE).write_bytes(data)


def write_plain(
    repository: Path, name: str, *nodes: NodeProto, kind: int = TensorProto.FLOAT, batch: int | str = "B", **values: Any
) -> None:
    """A plain graph x [batch, 1] -> y [batch, 1]. `values`: constants by name."""
    x, y = (helper.make_tensor_value_info(*each, [batch, 1]) for each in (("x", kind), ("y", TensorProto.FLOAT)))
    constants = [numpy_helper.from_array(np.array(value), key) for key, value in values.items()]
    graph = helper.make_graph(nodes, name, [x], [y], constants)
    created = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_graphs(repository, {name: created.SerializeToString()})


def write_slow(repository: Path, name: str = "slow", *, steps: int = 12, size: int = 1200) -> None:
    """A plain graph x [1, 1] -> y [1, 1] that computes for a good while."""
    # The matrix depends on the input, or the runtime would compute it all at load.
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(steps)),
        helper.make_node("ReduceMax", [f"m{steps}"], ["top"], keepdims=1),
        helper.make_node("Reshape", ["top", "one"], ["y"]),
    ]
    write_plain(repository, name, *nodes, batch=1, shape=[size, size], one=[1, 1])


def write_endless(repository: Path, name: str = "endless", *, steps: int = 40) -> None:
    """A plain graph x [B, 1] -> y [B, 1] that takes longer the larger x is, by its third power: 3000 are a minute."""
    nodes = [
        helper.make_node("Abs", ["x"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["size"], keepdims=1),
        helper.make_node("Cast", ["size"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "one"], ["flat"]),
        helper.make_node("Add", ["flat", "one"], ["n"]),
        helper.make_node("Concat", ["n", "n"], ["shape"], axis=0),
        helper.make_node("Expand", ["size", "shape"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(steps)),
        helper.make_node("ReduceMax", [f"m{steps}"], ["top"], keepdims=1),
        helper.make_node("Add", ["x", "top"], ["y"]),
    ]
    write_plain(repository, name, *nodes, one=[1])


def save(directory: Path, found: Manifest) -> None:
    """Write the manifest."""
    (directory / manifests.FILE_NAME).write_bytes(manifests.dumps(found))


def edit(directory: Path, **changes: object) -> None:
    """Replace fields of a written manifest."""
    save(directory, dataclasses.replace(manifests.load(directory), **changes))


def _layer(sources: int, destinations: int, node_tensor: str, at: int) -> LayerInfo:
    return LayerInfo(
        sources=sources, destinations=destinations, bases=(), pre_steps=(), post_steps=(), mask=(), bias=(),
        symbolic=(), active_edges=sources * destinations, node_tensor=node_tensor, edges_file=f"edges_l{at}.onnx",
        edges_tensor="edges",
    )  # fmt: skip


def model(nodes: list, inputs: list, outputs_: list, values: list, kind: int) -> bytes:
    tensors = [
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in group] for group in (inputs, outputs_)
    ]
    body = helper.make_graph(nodes, "toy", *tensors, values)
    created = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return created.SerializeToString()


def load(root: Path, text: str = "", budget: int = 2, **settings: Any) -> Model:
    """The only model of a folder, by default the toy, whose config.pbtxt says this. `budget`: threads."""
    if not root.exists() or not any(root.iterdir()):
        write(root)
    if text:
        (root / "toy" / pbtxt.FILE_NAME).write_text(text)
    (candidate,) = layout.scan(root, plain_onnx=False)
    result = Settings(repository=root, **settings)
    return Loader(result, budget, Metrics()).load(layout.load(candidate, 2**30))


def edited(**changes: Any) -> Callable[[Path], None]:
    """Another manifest, as `dataclasses.replace` changes it."""

    def change(folder: Path) -> None:
        loaded = dataclasses.replace(manifests.load(folder), **changes)
        (folder / manifests.FILE_NAME).write_bytes(manifests.dumps(loaded))

    return change


def reference(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        edited(reference=dataclasses.replace(manifests.load(folder).reference, **changes))(folder)

    return change


def wide_weights(width: int) -> np.ndarray:
    """[width, width], with the largest weights on the diagonal."""
    rng = np.random.default_rng(0)
    return (rng.uniform(-0.5, 0.5, (width, width)) + 2 * np.eye(width)).astype(np.float32) / width


def write_wide(repository: Path, width: int, name: str = "wide") -> None:
    """The model in version 1."""
    values = wide_weights(width)
    graphs = {manifests.MODEL_FILE: _wide_graph(values), "edges_l0.onnx": _wide_edges(values)}
    created = manifest(name)
    mask = tuple(tuple(row) for row in (np.abs(values) > 0).astype(float).tolist())
    layer = dataclasses.replace(
        created.layers[0], sources=width, destinations=width, active_edges=width * width, mask=mask
    )
    rows = np.linspace(-2, 2, 2 * width).reshape(2, width)
    reference = manifests.Reference(
        inputs=tuple(map(tuple, rows.tolist())),
        outputs=tuple(map(tuple, (np.tanh(rows) @ values).tolist())),
        tolerance=1e-4,
    )
    changes = {
        "inputs": (TensorSpec(name="x", datatype="FP32", shape=(-1, width)),),
        "outputs": (TensorSpec(name="y", datatype="FP32", shape=(-1, width)),),
        "layers": (layer,),
        "reference": reference,
    }
    bare, numbers = manifests.parts(dataclasses.replace(created, **changes))
    if numbers is not None:  # as an export writes a large manifest
        graphs[manifests.NUMBERS_FILE] = numbers
    put(repository / name / "1", graphs, bare)


def _wide_graph(values: np.ndarray) -> bytes:
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("MatMul", ["t", "W"], ["y"])]
    inputs, outputs = [("x", ["B", len(values)])], [("y", ["B", len(values)])]
    return model(nodes, inputs, outputs, [numpy_helper.from_array(values, "W")], TensorProto.FLOAT)


def _wide_edges(values: np.ndarray) -> bytes:
    constants = [numpy_helper.from_array(values[None], "W"), numpy_helper.from_array(np.array([2], np.int64), "axis")]
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Unsqueeze", ["t", "axis"], ["u"]),
        helper.make_node("Mul", ["u", "W"], ["edges"]),
    ]
    inputs, outputs = [("x", ["B", len(values)])], [("edges", ["B", *values.shape])]
    return model(nodes, inputs, outputs, constants, TensorProto.FLOAT)
