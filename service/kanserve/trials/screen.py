"""The structure of a graph, before a runtime sees it: operators that are known, data that is there once.

A runtime's own checks are for graphs that are wrong by accident; this is for those that somebody made to harm. The
file is parsed by protobuf with the part of ONNX's description that matters here (`proto/onnx_graph.proto`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from google.protobuf.message import DecodeError

from kanexport.shared import kernel as accelerator
from kanexport.shared import operators
from kanserve.errors import LoadError, LoadReason
from kanserve.pb import onnx_graph_pb2 as pb
from kanserve.trials import tensors

NODES = 100_000
TENSORS = 100_000
DEPTH = 20_000  # operators one after the other
OURS = (accelerator.DOMAIN, accelerator.OPERATOR)
BEYOND: tuple[Literal["g", "sparse_tensor", "ref_attr_name"], ...] = ("g", "sparse_tensor", "ref_attr_name")
# Which inputs of an operator say how large its output is.
SIZES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("ConstantOfShape", "BlackmanWindow", "HammingWindow", "HannWindow"), (0,)),
    **dict.fromkeys(("Expand", "Tile", "Pad", "OneHot", "CenterCropPad", "AffineGrid", "Upsample", "DFT"), (1,)),
    **dict.fromkeys(("Range", "MelWeightMatrix"), (0, 1, 2)),
    "Resize": (2, 3),
    "MaxUnpool": (2,),
    "Col2Im": (1, 2),
}


def check(name: str, data: bytes, beside: Mapping[str, int], *, strict: bool, kernel: bool = False) -> None:
    """The graph in the file `name`. `beside`: the files that may hold its weights, with their sizes; not `strict`: any
    operator may be in it; `kernel`: that of `shared.kernel` may. Raises LoadError."""
    try:
        model = pb.Model.FromString(data)
    except DecodeError as error:
        raise _refused(name, "it is no ONNX file, or a damaged one") from error
    for fault in faults(model, beside, strict=strict, kernel=kernel):
        raise _refused(name, fault)


def _refused(name: str, fault: str) -> LoadError:
    return LoadError(LoadReason.STRUCTURE, f"{name}: {fault}")


def faults(model: pb.Model, beside: Mapping[str, int], *, strict: bool, kernel: bool = False) -> Iterator[str]:
    if not model.HasField("graph"):
        yield "it holds no graph"
    if strict:
        yield from (f"{fault} (graph_screen = relaxed allows it)" for fault in _strict(model, kernel=kernel))
    for function in model.functions:
        yield from _of_nodes(function.node, beside, strict=strict)
    yield from _of_graph(model.graph, beside, strict=strict)


def _strict(model: pb.Model, *, kernel: bool) -> Iterator[str]:
    """What only operators of ONNX's own domain, in one flat graph, do not have."""
    graph = model.graph
    if model.functions or model.training_info:
        yield "it has functions or training steps of its own"
    yield from _versions(model)
    if len(graph.node) > NODES or len(graph.initializer) > TENSORS:
        yield f"{len(graph.node)} operators and {len(graph.initializer)} tensors are more than {NODES} and {TENSORS}"
        return
    if graph.sparse_initializer:
        yield "it has sparse tensors"
    for node in graph.node:
        yield from _of_node(node, kernel=kernel)
    yield from _flow(graph)
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() != size:
        yield "it has fields that ONNX does not have"


def _versions(model: pb.Model) -> Iterator[str]:
    (oldest, newest), (first, last) = operators.IR_VERSIONS, operators.OPSETS
    if not oldest <= model.ir_version <= newest:
        yield f"it has IR version {model.ir_version}, expected {oldest} to {newest}"
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not first <= opset.version <= last:
            yield f"it has opset {opset.version}, expected {first} to {last}"


def _of_node(node: pb.Node, *, kernel: bool) -> Iterator[str]:
    known = kernel and (node.domain, node.op_type) == OURS
    if not known and (why := operators.why_not(node.domain, node.op_type)):
        yield f"operator {node.op_type[:80]!r} {why}"
    for attribute in node.attribute:
        if attribute.graphs or any(attribute.HasField(field) for field in BEYOND) or attribute.sparse_tensors:
            yield f"{_called(node)} has graphs, sparse tensors or references of its own"


def _called(node: pb.Node) -> str:
    return f"{node.op_type[:80]} {node.name[:80]!r}"


def _flow(graph: pb.Graph) -> Iterator[str]:
    """From the inputs on: nothing is used before it is there, or made twice, and no size follows from a value."""
    depth = dict.fromkeys((tensor.name for tensor in graph.initializer), 0)
    values = {given.name for given in graph.input} - depth.keys()
    depth.update(dict.fromkeys(values, 0))
    for node in graph.node:
        if fault := _misplaced(node, depth):
            yield fault
            return
        if values.intersection(_sizes(node)):
            yield f"{_called(node)} makes a tensor whose size follows from values of a request"
        if node.op_type not in ("Shape", "Size") and values.intersection(node.input):
            values.update(filter(None, node.output))


def _sizes(node: pb.Node) -> list[str]:
    """What says how large that is what it makes."""
    return [node.input[at] for at in SIZES.get(node.op_type, ()) if at < len(node.input)]


def _misplaced(node: pb.Node, depth: dict[str, int]) -> str:
    """What is wrong with the place of an operator after those that made the tensors of `depth`, to which its own are
    added: how many operators are before each."""
    taken, made = (list(filter(None, names)) for names in (node.input, node.output))
    if missing := [one for one in taken if one not in depth]:
        return f"{_called(node)} takes {missing[0][:80]!r}, which nothing before it makes"
    if twice := depth.keys() & made:
        return f"{min(twice)[:80]!r} is made twice"
    deep = 1 + max((depth[one] for one in taken), default=0)
    depth.update(dict.fromkeys(made, deep))
    return f"more than {DEPTH} operators follow one another" if deep > DEPTH else ""


def _of_graph(graph: pb.Graph, beside: Mapping[str, int], *, strict: bool) -> Iterator[str]:
    for tensor in graph.initializer:
        yield from tensors.faults(tensor, beside, strict=strict)
    for sparse in graph.sparse_initializer:
        yield from _of_sparse(sparse, strict=strict)
    yield from _of_nodes(graph.node, beside, strict=strict)


def _of_nodes(nodes: Iterable[pb.Node], beside: Mapping[str, int], *, strict: bool) -> Iterator[str]:
    """What stands in attributes."""
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        for tensor in (*_one(attribute, "t"), *attribute.tensors):
            yield from tensors.faults(tensor, {}, strict=strict)
        for sparse in (*_one(attribute, "sparse_tensor"), *attribute.sparse_tensors):
            yield from _of_sparse(sparse, strict=strict)
        for graph in (*_one(attribute, "g"), *attribute.graphs):
            yield from _of_graph(graph, beside, strict=strict)


def _one(message: Any, field: str) -> tuple[Any, ...]:
    """What is in a field, if anything is."""
    return (getattr(message, field),) if message.HasField(field) else ()


def _of_sparse(sparse: pb.SparseTensor, *, strict: bool) -> Iterator[str]:
    for tensor in (*_one(sparse, "values"), *_one(sparse, "indices")):
        yield from tensors.faults(tensor, {}, strict=strict)
