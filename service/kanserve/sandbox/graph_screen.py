"""Structural check of a graph before a runtime reads it: known operators, and each tensor defined once.

The checks of a runtime find accidental faults; this check is for graphs that are made to do harm. Protobuf parses the
file with a part of ONNX's schema (`proto/onnx_graph.proto`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from google.protobuf.message import DecodeError

from kanexport.shared import custom_ops
from kanserve.errors import LoadError, LoadReason
from kanserve.pb import onnx_graph_pb2 as pb

RELAXED = " (graph_allowlist = relaxed allows it)"  # end of a fault that depends on the setting
NODES = 100_000
TENSORS = 100_000
DEPTH = 20_000  # operators one after the other
OURS = {(custom_ops.DOMAIN, operator) for operator in custom_ops.OPERATORS}
BEYOND: tuple[Literal["g", "sparse_tensor", "ref_attr_name"], ...] = ("g", "sparse_tensor", "ref_attr_name")
# Positions of the inputs of an operator that determine the size of its output.
SIZES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("ConstantOfShape", "BlackmanWindow", "HammingWindow", "HannWindow"), (0,)),
    **dict.fromkeys(("Expand", "Tile", "Pad", "OneHot", "CenterCropPad", "AffineGrid", "Upsample", "DFT"), (1,)),
    **dict.fromkeys(("Range", "MelWeightMatrix"), (0, 1, 2)),
    "Resize": (2, 3),
    "MaxUnpool": (2,),
    "Col2Im": (1, 2),
}


def check(name: str, data: bytes, beside: Mapping[str, int], *, strict: bool, kernel: bool = False) -> None:
    """Check the graph in the file `name`. Raises LoadError.

    beside  sizes of the files that may hold its weights, by name
    strict  apply the operator allowlist
    kernel  accept the operators of `custom_ops`
    """
    try:
        model = pb.Model.FromString(data)
    except DecodeError as error:
        raise LoadError(
            LoadReason.STRUCTURE,
            f"{name}: it is not an ONNX file, or it is damaged",
            code="graph-invalid",
            hint="copy the file again, or export the model again",
        ) from error
    for fault in graph_faults(model, beside, strict=strict, kernel=kernel):
        text, relaxed, _ = fault.partition(RELAXED)
        if relaxed:
            raise LoadError(
                LoadReason.STRUCTURE,
                f"{name}: {text}",
                code="graph-not-allowed",
                hint="export the model again, or set graph_allowlist = relaxed if you trust its source",
            )
        raise LoadError(LoadReason.STRUCTURE, f"{name}: {text}", code="graph-invalid", hint="export the model again")


def graph_faults(model: pb.Model, beside: Mapping[str, int], *, strict: bool, kernel: bool = False) -> Iterator[str]:
    """Texts about the faults of a graph. Faults that the setting `graph_allowlist` may allow end with `RELAXED`."""
    if not model.HasField("graph"):
        yield "it has no graph"
    if strict:
        yield from (f"{fault}{RELAXED}" for fault in _strict(model, kernel=kernel))
    for function in model.functions:
        yield from _of_nodes(function.node, beside, strict=strict)
    yield from _of_graph(model.graph, beside, strict=strict)


def _strict(model: pb.Model, *, kernel: bool) -> Iterator[str]:
    """Faults under the operator allowlist: a graph must be flat and use only operators of ONNX's domain."""
    graph = model.graph
    if model.functions or model.training_info:
        yield "it has custom functions or training steps"
    (oldest, newest), (first, last) = custom_ops.IR_VERSIONS, custom_ops.OPSETS
    if not oldest <= model.ir_version <= newest:
        yield f"it has IR version {model.ir_version}, expected {oldest} to {newest}"
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not first <= opset.version <= last:
            yield f"it has opset {opset.version}, expected {first} to {last}"
    if len(graph.node) > NODES or len(graph.initializer) > TENSORS:
        counts = f"{len(graph.node)} operators and {len(graph.initializer)} tensors"
        yield f"it has {counts}, expected at most {NODES} and {TENSORS}"
        return
    if graph.sparse_initializer:
        yield "it has sparse tensors"
    for node in graph.node:
        yield from _of_node(node, kernel=kernel)
    yield from _dataflow_faults(graph)
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() != size:
        yield "it has fields that ONNX does not have"


def _of_node(node: pb.Node, *, kernel: bool) -> Iterator[str]:
    known = kernel and (node.domain, node.op_type) in OURS
    if not known and (why := custom_ops.why_not(node.domain, node.op_type)):
        yield f"operator {node.op_type[:80]!r} {why}"
    for attribute in node.attribute:
        if attribute.graphs or any(attribute.HasField(field) for field in BEYOND) or attribute.sparse_tensors:
            yield f"{_called(node)} has nested graphs, sparse tensors or references"


def _called(node: pb.Node) -> str:
    return f"{node.op_type[:80]} {node.name[:80]!r}"


def _dataflow_faults(graph: pb.Graph) -> Iterator[str]:
    """Faults of the data flow, from the inputs on: use before definition, double definition, or a size that depends
    on a value."""
    depth = dict.fromkeys((tensor.name for tensor in graph.initializer), 0)
    values = {entry.name for entry in graph.input} - depth.keys()
    depth.update(dict.fromkeys(values, 0))
    for node in graph.node:
        if fault := _misplaced(node, depth):
            yield fault
            return
        sizes = SIZES.get(node.op_type, ())
        if values.intersection(node.input[at] for at in sizes if at < len(node.input)):
            yield f"{_called(node)} makes a tensor whose size depends on values of a request"
        if node.op_type not in ("Shape", "Size") and values.intersection(node.input):
            values.update(filter(None, node.output))


def _misplaced(node: pb.Node, depth: dict[str, int]) -> str:
    """Fault in the place of an operator after those that made the tensors of `depth`. The function adds its own
    tensors, with the number of operators before each."""
    inputs, outputs = (list(filter(None, names)) for names in (node.input, node.output))
    if missing := [name for name in inputs if name not in depth]:
        return f"{_called(node)} uses {missing[0][:80]!r}, which no operator before it makes"
    if twice := depth.keys() & outputs:
        return f"{min(twice)[:80]!r} is defined twice"
    deep = 1 + max((depth[name] for name in inputs), default=0)
    depth.update(dict.fromkeys(outputs, deep))
    return f"it has a chain of more than {DEPTH} operators" if deep > DEPTH else ""


def _of_graph(graph: pb.Graph, beside: Mapping[str, int], *, strict: bool) -> Iterator[str]:
    for tensor in graph.initializer:
        yield from tensor_faults(tensor, beside, strict=strict)
    for sparse in graph.sparse_initializer:
        yield from _of_sparse(sparse, strict=strict)
    yield from _of_nodes(graph.node, beside, strict=strict)


def _of_nodes(nodes: Iterable[pb.Node], beside: Mapping[str, int], *, strict: bool) -> Iterator[str]:
    """Faults of tensors in attributes."""
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        for tensor in (*_one(attribute, "t"), *attribute.tensors):
            yield from tensor_faults(tensor, {}, strict=strict)
        for sparse in (*_one(attribute, "sparse_tensor"), *attribute.sparse_tensors):
            yield from _of_sparse(sparse, strict=strict)
        for graph in (*_one(attribute, "g"), *attribute.graphs):
            yield from _of_graph(graph, beside, strict=strict)


def _one(message: Any, field: str) -> tuple[Any, ...]:
    """Value of a field in a tuple; an empty tuple if it is not set."""
    return (getattr(message, field),) if message.HasField(field) else ()


def _of_sparse(sparse: pb.SparseTensor, *, strict: bool) -> Iterator[str]:
    for tensor in (*_one(sparse, "values"), *_one(sparse, "indices")):
        yield from tensor_faults(tensor, {}, strict=strict)


AXES = 32
EXTERNAL = 1  # data_location
KEYS = {"location", "offset", "length", "checksum"}  # of external data
DATA = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
STRING = 8
# By ONNX's number of the type: bytes of an element, and the field that has it if it is not raw.
TYPES: Mapping[int, tuple[int, str]] = {
    1: (4, "float_data"),
    **dict.fromkeys((2, 3, 9), (1, "int32_data")),
    **dict.fromkeys((4, 5, 10, 16), (2, "int32_data")),
    6: (4, "int32_data"),
    7: (8, "int64_data"),
    STRING: (0, "string_data"),
    11: (8, "double_data"),
    12: (4, "uint64_data"),
    13: (8, "uint64_data"),
}


def tensor_faults(tensor: pb.Tensor, beside: Mapping[str, int], *, strict: bool) -> Iterator[str]:
    """Faults of a tensor.

    beside  sizes of the files that may hold data, by name
    strict  accept only known types
    """
    yield from (f"tensor {tensor.name[:80]!r} {fault}" for fault in _faults(tensor, beside, strict=strict))


# radon: one kind of data after the other, each on a separate line.
def _faults(tensor: pb.Tensor, beside: Mapping[str, int], *, strict: bool) -> Iterator[str]:
    fields = [field for field in DATA if len(getattr(tensor, field))]
    count = math.prod(tensor.dims)
    size, own_field = TYPES.get(tensor.data_type, (0, ""))
    if len(tensor.dims) > AXES or min(tensor.dims, default=0) < 0:
        yield f"has {len(tensor.dims)} axes, or an axis of a negative size"
    elif len(fields) + tensor.HasField("raw_data") > 1 or tensor.HasField("segment"):
        yield "has its data more than once, or in parts"
    elif tensor.data_location == EXTERNAL:
        yield from _external(tensor, fields, beside)
    elif tensor.data_location or tensor.external_data:
        yield "contradicts itself about the file of its data"
    elif tensor.data_type not in TYPES:
        if strict:
            yield f"is of type {tensor.data_type}, which kanserve does not support{RELAXED}"
    elif tensor.HasField("raw_data"):
        if tensor.data_type == STRING or len(tensor.raw_data) != count * size:
            yield f"has {len(tensor.raw_data)} bytes, expected {count * size} by its shape"
    elif fields not in ([], [own_field]) or len(getattr(tensor, own_field)) != count:
        yield f"has {len(getattr(tensor, own_field))} numbers, expected {count} by its shape"


def _external(tensor: pb.Tensor, fields: list[str], beside: Mapping[str, int]) -> Iterator[str]:
    """Faults in the location of external data."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    if fields or tensor.HasField("raw_data"):
        yield "has data here and in another file"
    if len(facts) != len(tensor.external_data) or not facts.keys() <= KEYS:
        yield "has an invalid location of external data"
        return
    if location not in beside:
        yield f"has its data in {location[:80]!r}, which is not a file of this version (external data)"
        return
    size_limit, (size, _) = beside[location], TYPES.get(tensor.data_type, (0, ""))
    needed = math.prod(tensor.dims) * size
    offset, length = (_number(facts.get(key, usual)) for key, usual in (("offset", "0"), ("length", str(needed))))
    if not size or offset < 0 or length != needed or offset + needed > size_limit:
        yield (
            f"has {needed} bytes by its shape, but {length} bytes at {offset} of {location}, "
            f"which has {size_limit} bytes (external data)"
        )


def _number(text: str) -> int:
    """Number of a few decimal digits; otherwise -1."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
