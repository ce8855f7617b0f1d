"""Splicing: the lowered graphs of the layers replace placeholders in a traced graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from kanexport.errors import REPORT, LayerSkipped, ModuleRefused
from kanexport.graph.external_data import check
from kanexport.lowering.lower import INPUT, OUTPUT
from kanexport.torch_export.borrowed_module import ForeignError, first_line, foreign_code
from kanexport.torch_export.capture import COLUMN, FLAT, TAP
from kanexport.torch_export.trace import DOMAIN, OPSET, TRACEABLE, Placeholder
from kanexport.verify.graph_runner import Ports

INNER = "inner/"  # before the name of a tensor that had the name of an input or output
CONSTANT = "given_"  # before the number of a constant that takes the place of an input


@dataclass(frozen=True, slots=True)
class Subgraph:
    """The replacement of one placeholder.

    model  graph from x [rows, n] to y [rows, m], with the input of every inner layer as a further output
    nodes  (tensor of the model, name among the whole graph's outputs)
    axes   shape of the layer's rows with -1 at the batch; None: they have no place among the rows of a request
    """

    placeholder: Placeholder
    model: bytes
    nodes: tuple[tuple[str, str], ...]
    axes: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class ConvSubgraph:
    """The input of the layer of a convolution, as a further output of the graph.

    name      name of the output
    channels  channels of the tapped tensor [B, C, *picture]
    index     numbers [L, P] of the picture under each place of the kernel at each position, -1 for 0
    inside    mask [L, P] that is appended to the vectors; None: nothing is appended
    axes      as in Subgraph, positions included
    """

    name: str
    channels: tuple[int, ...]
    index: npt.NDArray[np.int64]
    inside: npt.NDArray[np.float64] | None
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tap:
    """The further outputs at one call of a tapped module.

    unfolded  outputs
    picture   size of the picture
    dtype     type of the graph
    """

    placeholder: Placeholder
    unfolded: tuple[ConvSubgraph, ...]
    picture: tuple[int, ...]
    dtype: str


def splice(traced: bytes, bodies: Sequence[Subgraph | Tap], ports: Ports) -> bytes:
    """Fill the placeholders, those of a layer in their order of execution, and name inputs and outputs. Raises
    InvalidKan."""
    model = onnx.load_model_from_string(traced)
    graph = model.graph
    rewrite_logistic(graph)
    as_columns(graph)
    writer = _Writer(graph)
    waiting: dict[int, list[Subgraph | Tap]] = {}
    for body in bodies:
        waiting.setdefault(body.placeholder.index, []).append(body)
    for node in graph.node:
        if node.domain != DOMAIN:
            writer.nodes.append(node)
            continue
        index = helper.get_attribute_value(node.attribute[0])
        if not waiting.get(index):
            raise ModuleRefused(
                "the traced graph runs a KAN layer more often than the module",
                code="internal-check-failed",
                hint=REPORT,
            )
        body = waiting[index].pop(0)
        if isinstance(body, Subgraph):
            writer.fill(node, body)
        else:
            writer.tap(node, body)
    lacking = sum(map(len, waiting.values()))
    if lacking:
        raise ModuleRefused(
            f"the traced graph lacks {lacking} KAN layers that the module runs",
            code="internal-check-failed",
            hint=REPORT,
        )
    del graph.node[:]
    graph.node.extend(writer.nodes)
    _rename(graph, ports)
    graph.output.extend(writer.outputs)
    _strip(model)
    try:
        with foreign_code():
            check(model)
    except ForeignError as foreign:
        raise ModuleRefused(
            f"the graph of torch.onnx is not valid: {first_line(foreign.error)}",
            code="trace-invalid",
            hint=TRACEABLE,
        ) from foreign.error
    return bytes(model.SerializeToString())


def filled(model: bytes, constants: Sequence[npt.NDArray[Any]]) -> bytes:
    """The model with these constants in place of its inputs after the first, in their order."""
    own = onnx.load_from_string(model)
    names = {value.name: f"{CONSTANT}{at}" for at, value in enumerate(own.graph.input) if at}
    renamed(own.graph, names)
    for name, constant in zip(names.values(), constants, strict=True):
        own.graph.initializer.append(numpy_helper.from_array(constant, name))
    del own.graph.input[1:]
    return bytes(own.SerializeToString())


def renamed(graph: Any, names: Mapping[str, str], prefix: str = "") -> list[Any]:
    """The nodes of a graph, with these names of tensors, and the prefix before all others. Changes the graph."""
    for node in graph.node:
        node.input[:] = [names.get(name, prefix + name) for name in node.input]
        node.output[:] = [names.get(name, prefix + name) for name in node.output]
        node.name = prefix + node.name
    return list(graph.node)


def passing(width: int, dtype: str) -> bytes:
    """A graph that returns its vectors [N, width] unchanged, for a tapped layer."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x, y = (helper.make_tensor_value_info(name, kind, ["batch", width]) for name in (INPUT, OUTPUT))
    graph = helper.make_graph([helper.make_node("Identity", [INPUT], [OUTPUT], name=OUTPUT)], "passing", [x], [y])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]).SerializeToString())


def _rename(graph: Any, ports: Ports) -> None:
    """Set the names of inputs and outputs; other tensors with these names are renamed."""
    if (len(graph.input), len(graph.output)) != (len(ports.inputs), len(ports.outputs)):
        raise ModuleRefused(
            "the traced graph has other inputs or outputs than the module",
            code="internal-check-failed",
            hint=REPORT,
        )
    pairs = [*zip(graph.input, ports.inputs, strict=True), *zip(graph.output, ports.outputs, strict=True)]
    names = {value.name: port.name for value, port in pairs}
    # Names that a tensor in between has already; where nothing has them this changes nothing.
    names = {port.name: f"{INNER}{port.name}" for _, port in pairs} | names
    renamed(graph, names)
    for named in (*graph.initializer, *graph.input, *graph.output):
        named.name = names.get(named.name, named.name)
    for value, _ in pairs:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _strip(model: Any) -> None:
    """Remove facts about the machine and torch, and custom operator sets."""
    graph = model.graph
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, graph, model):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    graph.name, model.producer_name, model.producer_version = "kan", DOMAIN, ""
    standard = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(standard)


class _Writer:
    """The nodes of the new graph, and its additional outputs."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.outputs: list[Any] = []
        self._calls = 0
        self._known: set[str] = set()

    def tap(self, node: Any, body: Tap) -> None:
        """Pass the tapped tensor on, and add an unfolded output for each layer that receives it."""
        self._node("Identity", node.output[0], node.input[0])
        size = math.prod(body.picture)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(body.dtype))
        for output in body.unfolded:
            positions, places = output.index.shape
            name, width = output.name, len(output.channels) * places
            x = self._node("Gather", name + "/mine", node.input[0], self._index(name + "/own", output.channels), axis=1)
            x = self._node("Reshape", name + "/flat", x, self._index(name + "/size", [0, 0, size]))
            x = self._node("Pad", name + "/padded", x, self._index(name + "/pads", [0, 0, 0, 0, 0, 1]))
            # Places outside read the number behind the last one.
            index = np.where(output.index < 0, size, output.index)
            x = self._node("Gather", name + "/seen", x, self._index(name + "/index", index), axis=2)
            x = self._node("Transpose", name + "/turned", x, perm=[0, 2, 1, 3])
            x = self._node("Reshape", name + "/vectors", x, self._index(name + "/width", [0, positions, width]))
            if output.inside is not None:
                # The vectors [B, L, n], followed by the marks of the inside of the picture, [B, L, n + P].
                inside = output.inside[None].astype(body.dtype)
                self.graph.initializer.append(numpy_helper.from_array(inside, name + "/inside"))
                whole = self._node("Shape", name + "/shape_of", node.input[0])
                first, last = (self._index(name + f"/{end}", [end]) for end in (0, 1))
                rows = self._node("Slice", name + "/rows", whole, first, last)
                each = self._index(name + "/each", [positions, places])
                shape = self._node("Concat", name + "/every", rows, each, axis=0)
                there = self._node("Expand", name + "/there", name + "/inside", shape)
                x, width = self._node("Concat", name + "/both", x, there, axis=2), width + places
            self._expose(x, name, (kind, width), output.axes)

    def fill(self, node: Any, body: Subgraph) -> None:
        """Replace one placeholder: rows of vectors as input, the graph of kanserve, and the shape of the module as
        output. Next to a tapped layer, add the graph."""
        prefix, shared = f"call{self._calls}/", f"kan{body.placeholder.index}/"
        self._calls += 1
        inner = onnx.load_model_from_string(body.model)
        # The tensors of nested graphs would need new names, too.
        if inner.functions or any(part.HasField("g") for node in inner.graph.node for part in node.attribute):
            raise LayerSkipped("the graph of a layer has branches or loops")
        n, m = body.placeholder.sources, body.placeholder.destinations
        flat = self._node("Reshape", prefix + "rows", node.input[0], self._index(prefix + "in", [-1, n]))
        # A layer that runs again has the weights it had.
        names = {"": "", INPUT: flat} | {tensor.name: shared + tensor.name for tensor in inner.graph.initializer}
        self.nodes += renamed(inner.graph, names, prefix)
        for tensor in inner.graph.initializer:
            tensor.name = shared + tensor.name
            if tensor.name not in self._known:
                self._known.add(tensor.name)
                self.graph.initializer.append(tensor)
        self._shape(body.placeholder.form, prefix, node, m)
        types = {value.name: value.type.tensor_type for value in (*inner.graph.input, *inner.graph.output)}
        for vectors, name in body.nodes:
            assert body.axes is not None
            kind = types[vectors].elem_type, types[vectors].shape.dim[1].dim_value
            self._expose(names.get(vectors, prefix + vectors), name, kind, body.axes)

    def _shape(self, form: str, prefix: str, node: Any, m: int) -> None:
        y, out = prefix + OUTPUT, node.output[0]
        if form == TAP:
            self._node("Identity", out, node.input[0])
            return
        if form in (FLAT, COLUMN):
            shape = [-1, m] if form == FLAT else [-1, m, 1]
            self._node("Reshape", out, y, self._index(prefix + "out", shape))
            return
        whole = self._node("Shape", prefix + "shape", node.input[0])
        first, last = (self._index(prefix + name, [at]) for name, at in (("first", 0), ("last", -1)))
        lead = self._node("Slice", prefix + "lead", whole, first, last)
        joined = self._node("Concat", prefix + "joined", lead, self._index(prefix + "width", [m]), axis=0)
        # A batch of no rows is zero somewhere in that shape, and means it.
        self._node("Reshape", out, y, joined, allowzero=1)

    def _expose(self, tensor: str, name: str, kind: tuple[int, int], axes: tuple[int, ...]) -> None:
        """[rows of the layer, n] as an output [batch, *positions, n]. `kind`: its type, and n."""
        element, width = kind
        at, shape = axes.index(-1), self._index(name + "/shape", [*axes, width])
        if at == 0:
            self._node("Reshape", name, tensor, shape)
        else:
            whole = self._node("Reshape", name + "/whole", tensor, shape)
            order = [at, *(axis for axis in range(len(axes) + 1) if axis != at)]
            self._node("Transpose", name, whole, perm=order)
        positions = [axis for axis in axes if axis != -1]
        self.outputs.append(helper.make_tensor_value_info(name, element, ["batch", *positions, width]))

    def _node(self, kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def _index(self, name: str, values: npt.ArrayLike) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name


ONE = "tails/one"
LAST = "tails/last"


def rewrite_logistic(graph: Any) -> None:
    """Write the logistic function as 1 / (1 + exp(-x)). Sigmoid of onnxruntime has an error of 1e-7, which exceeds
    small values: a row of inputs below -5 loses three digits, and a branch on sigmoid(x) > 0 gets 0."""

    def rewritten(node: Any) -> list[Any]:
        if node.op_type != "Sigmoid":
            return []
        (x,), (y,) = node.input, node.output
        steps = [("Neg", [x]), ("Exp", [f"{y}/Neg"]), ("CastLike", [ONE, x]), ("Add", [f"{y}/Exp", f"{y}/CastLike"])]
        nodes = [helper.make_node(kind, operands, [f"{y}/{kind}"], name=f"{y}/{kind}") for kind, operands in steps]
        return [*nodes, helper.make_node("Reciprocal", [f"{y}/Add"], [y], name=f"{y}/Reciprocal")]

    _rewrite(graph, rewritten, numpy_helper.from_array(np.array(1, np.float32), ONE))


def as_columns(graph: Any) -> None:
    """Write every vector that a MatMul multiplies from the right as a matrix of one column."""
    ranks = _ranks(graph)

    def rewritten(node: Any) -> list[Any]:
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx") or ranks.get(node.input[1]) != 1:
            return []
        (x, vector), (y,) = node.input, node.output
        column, product = f"{y}/column", f"{y}/product"
        return [
            helper.make_node("Unsqueeze", [vector, LAST], [column], name=column),
            helper.make_node("MatMul", [x, column], [product], name=product),
            helper.make_node("Squeeze", [product, LAST], [y], name=f"{y}/vector"),
        ]

    _rewrite(graph, rewritten, numpy_helper.from_array(np.array([-1], np.int64), LAST))


def _rewrite(graph: Any, rewritten: Callable[[Any], list[Any]], constant: Any) -> None:
    """Replace nodes, and add the constant that the new ones need. `rewritten`: those for a node, if it is replaced."""
    nodes = [other for node in graph.node for other in rewritten(node) or [node]]
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.append(constant)


def _ranks(graph: Any) -> dict[str, int]:
    """The number of axes of each tensor, if the graph states it."""
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            attributes = {part.name: part for part in node.attribute}
            if "value" in attributes:
                ranks[node.output[0]] = len(attributes["value"].t.dims)
            elif attributes.keys() & {"value_ints", "value_floats"}:
                ranks[node.output[0]] = 1
    return ranks
