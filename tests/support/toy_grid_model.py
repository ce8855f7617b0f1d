"""PyTorch module export small enough to check by hand: two-axis rows, layers at positions, and edge classes.

x [B, 2, 3] -> "pixels", at 2 x 3 positions:  phi(x) = W0[0, j] * tanh(x / 2), then PReLU   -> [B, 2, 3, 4]
            -> "token.kan", at 2 positions:   phi(h_i) = W1[i, j] * normalised h_i (class B) -> [B, 2, 16]
            -> "head.layers.0", once:         phi(g_i) = W2[i, j] * tanh(g_i)                -> y [B, 2, 1]
"""

import dataclasses
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from kanexport.shared import manifest as manifests
from kanexport.shared.manifest import BasisInfo, LayerInfo, Manifest, NodeStep, Reference, TensorSpec
from tests.support import toy_model

RNG = np.random.default_rng(5)
WEIGHTS = tuple(RNG.normal(size=shape).astype(np.float32) for shape in ((1, 4), (12, 16), (32, 2)))
POSITIONS: tuple[tuple[int, ...], ...] = ((2, 3), (2,), ())
NAMES = ("pixels", "token.kan", "head.layers.0")
TENSORS = ("pixels_in", "tokens_in", "head_in")
EPSILON, SLOPE = 1e-5, 0.25
BATCH = 32


def nodes(x: np.ndarray) -> list[np.ndarray]:
    """[B, 2, 3] -> what feeds each layer: [B, 2, 3, 1], [B, 2, 12], [B, 32]."""
    pixels = x[..., None] / 2
    sums = edges_of(pixels, 0).sum(axis=-2)
    tokens = np.where(sums > 0, sums, SLOPE * sums).reshape(-1, 2, 12)
    return [pixels, tokens, edges_of(tokens, 1).sum(axis=-2).reshape(-1, 32)]


def edges_of(fed: np.ndarray, layer: int) -> np.ndarray:
    """Node tensor [..., n] -> edge values [..., S, D]."""
    if layer == 1:
        apart = fed - fed.mean(axis=-1, keepdims=True)
        values = apart / np.sqrt((apart**2).mean(axis=-1, keepdims=True) + EPSILON)
    else:
        values = np.tanh(fed)
    return values[..., None] * WEIGHTS[layer].astype(fed.dtype)


def edges(x: np.ndarray, layer: int) -> np.ndarray:
    """[B, 2, 3] -> [B, *positions, S, D]."""
    return edges_of(nodes(x)[layer], layer)


def outputs(x: np.ndarray) -> np.ndarray:
    """[B, 2, 3] -> [B, 2, 1]."""
    return edges(x, 2).sum(axis=-2)[..., None]


def graph() -> bytes:
    """The serving graph, with the node tensors as outputs."""
    values = {
        "two": np.float32(2),
        "slope": np.array([SLOPE], np.float32),
        "last": np.array([-1], np.int64),
        "tokens": np.array([0, 2, 12], np.int64),
        "flat": np.array([0, 32], np.int64),
        **{f"W{at}": weight for at, weight in enumerate(WEIGHTS)},
    }
    body = [
        helper.make_node("Div", ["x", "two"], ["half"]),
        helper.make_node("Unsqueeze", ["half", "last"], [TENSORS[0]]),
        helper.make_node("Tanh", [TENSORS[0]], ["t"]),
        helper.make_node("MatMul", ["t", "W0"], ["s0"]),
        helper.make_node("PRelu", ["s0", "slope"], ["p0"]),
        helper.make_node("Reshape", ["p0", "tokens"], [TENSORS[1]]),
        *_normalised(TENSORS[1], "n"),
        helper.make_node("MatMul", ["n", "W1"], ["s1"]),
        helper.make_node("Reshape", ["s1", "flat"], [TENSORS[2]]),
        helper.make_node("Tanh", [TENSORS[2]], ["g"]),
        helper.make_node("MatMul", ["g", "W2"], ["s2"]),
        helper.make_node("Unsqueeze", ["s2", "last"], ["y"]),
    ]
    shapes = [["B", *places, len(weight)] for places, weight in zip(POSITIONS, WEIGHTS, strict=True)]
    supplied = [("x", ["B", 2, 3])]
    return _model(body, supplied, [("y", ["B", 2, 1]), *zip(TENSORS, shapes, strict=True)], values)


def edge_graph(layer: int) -> bytes:
    """Node vectors [N, n] -> edge values [N, S, D]."""
    weight, tensor = WEIGHTS[layer], TENSORS[layer]
    values = {"W": weight[None], "last": np.array([-1], np.int64)}
    body = [
        *(_normalised(tensor, "n") if layer == 1 else [helper.make_node("Tanh", [tensor], ["n"])]),
        helper.make_node("Unsqueeze", ["n", "last"], ["u"]),
        helper.make_node("Mul", ["u", "W"], ["edges"]),
    ]
    return _model(body, [(tensor, ["N", len(weight)])], [("edges", ["N", *weight.shape])], values)


def write(repository: Path, name: str = "grid") -> Path:
    """A version directory under `repository`."""
    files = {manifests.MODEL_FILE: graph()} | {f"edges_l{at}.onnx": edge_graph(at) for at in range(3)}
    return toy_model.put(repository / name / "1", files, _manifest(name))


def edit_layer(directory: Path, at: int, **changes: object) -> None:
    """Replace fields of one layer of a written manifest."""
    layers = list(manifests.load(directory).layers)
    layers[at] = dataclasses.replace(layers[at], **changes)
    toy_model.edit(directory, layers=tuple(layers))


def _manifest(name: str) -> Manifest:
    rows = np.linspace(-2, 2, 24).reshape(4, 2, 3)
    return dataclasses.replace(
        toy_model.manifest(name),
        edge_class="B",
        max_batch_size=BATCH,
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2, 3)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2, 1)),),
        layers=tuple(_layer(at) for at in range(3)),
        reference=Reference(
            inputs=tuple(map(tuple, rows.reshape(4, -1).tolist())),
            outputs=tuple(map(tuple, outputs(rows).reshape(4, -1).tolist())),
            tolerance=1e-5,
        ),
    )


def _layer(at: int) -> LayerInfo:
    wide, deep = WEIGHTS[at].shape
    norm = NodeStep(kind="layernorm", scale=(1.0,) * wide, bias=(0.0,) * wide, epsilon=EPSILON)
    return LayerInfo(
        sources=wide, destinations=deep,
        bases=(BasisInfo(kind="identity" if at == 1 else "tanh", functions=1, parameters={}, knots=()),),
        pre_steps=(norm,) if at == 1 else (),
        post_steps=(NodeStep(kind="prelu", scale=(SLOPE,)),) if at == 0 else (), mask=(), bias=(), symbolic=(),
        active_edges=wide * deep, node_tensor=TENSORS[at], edges_file=f"edges_l{at}.onnx", edges_tensor="edges",
        name=NAMES[at], edge_class="B" if at == 1 else "A", positions=POSITIONS[at],
    )  # fmt: skip


def _normalised(given: str, result: str) -> list[NodeProto]:
    """Over the last axis, as `edges_of` has it; the names are unused elsewhere."""
    return [
        helper.make_node("ReduceMean", [given], ["mean"], axes=[-1]),
        helper.make_node("Sub", [given, "mean"], ["apart"]),
        helper.make_node("Mul", ["apart", "apart"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["variance"], axes=[-1]),
        helper.make_node("Constant", [], ["epsilon"], value_float=EPSILON),
        helper.make_node("Add", ["variance", "epsilon"], ["shifted"]),
        helper.make_node("Sqrt", ["shifted"], ["deviation"]),
        helper.make_node("Div", ["apart", "deviation"], [result]),
    ]


def _model(body: list[NodeProto], given: list, found: list, values: dict[str, np.ndarray]) -> bytes:
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    return toy_model.model(body, given, found, constants, TensorProto.FLOAT)
