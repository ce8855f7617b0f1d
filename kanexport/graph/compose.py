"""Composition of graphs: the graph of the model with appended graphs that read its tensors.

Nothing of them is changed but names, so that each part computes to the bit what it computes by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from kanexport.errors import InvalidKan
from kanexport.graph.external_data import check
from kanexport.shared import custom_ops


@dataclass(frozen=True, slots=True)
class AppendedGraph:
    """Graph that is appended to that of the model. Its inputs have the names of tensors of the model, or of an earlier
    part.

    output     the output to take, [N, *shape]
    name       the name of that output in the whole graph, [batch, *positions, *shape]
    positions  axes of its one input between the rows and the nodes, if it takes vectors [N, n]
    shown      whether it is an output of the whole graph; otherwise only other parts read it
    """

    graph: bytes
    output: str
    name: str
    positions: tuple[int, ...] = ()
    shown: bool = True


def joined(model: bytes, parts: Sequence[AppendedGraph], facts: Mapping[str, str]) -> bytes:
    """The model with the outputs of the parts as additional outputs. `facts`: the metadata of the file. Raises
    InvalidKan if the parts do not fit into one graph."""
    whole = onnx.load_model_from_string(model)
    writer = _Writer(whole)
    for at, part in enumerate(parts):
        writer.put(f"part{at}/", part)
    for key, value in facts.items():
        whole.metadata_props.add(key=key, value=value)
    try:
        check(whole)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidKan(
            f"the graphs of the model and its edges do not fit into one: {str(error).splitlines()[0][:200]}",
            code="explain-graph-invalid",
            hint="export without --explain",
        ) from error
    return bytes(whole.SerializeToString())


def exposed(model: bytes) -> bytes:
    """A copy of the model that also outputs every intermediate value of its main graph. Values inside loops and
    branches are not outputs."""
    whole = onnx.load_model_from_string(model)
    known = {"", *(output.name for output in whole.graph.output)}
    names = [name for node in whole.graph.node for name in node.output if name not in known]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return bytes(whole.SerializeToString())


class _Writer:
    """Appends graphs to that of a model."""

    def __init__(self, whole: Any) -> None:
        self._graph = whole.graph
        self._known: dict[bytes, str] = {}  # constants of the parts by content, each stored once

    def put(self, prefix: str, part: AppendedGraph) -> None:
        """Append a part. Its names have the prefix, except those that the model has."""
        inner = onnx.load_model_from_string(part.graph).graph
        names = {"": ""}
        for value in inner.input:
            names[value.name] = value.name
            if part.positions:  # the tensor of the model with rows and positions as one axis
                width = value.type.tensor_type.shape.dim[1].dim_value
                names[value.name] = self._reshape(value.name, prefix + "vectors", prefix + "rows", [-1, width])
        names |= {tensor.name: self._constant(prefix, tensor) for tensor in inner.initializer}
        (output_info,) = (output for output in inner.output if output.name == part.output)
        names[part.output] = prefix + part.output if part.positions else part.name
        for node in inner.node:
            node.input[:] = [names.get(name, prefix + name) for name in node.input]
            node.output[:] = [names.get(name, prefix + name) for name in node.output]
            node.name = prefix + node.name if node.name else ""
        self._graph.node.extend(inner.node)
        kind = output_info.type.tensor_type
        shape = [axis.dim_value for axis in kind.shape.dim][1:]
        if part.positions:
            self._reshape(prefix + part.output, part.name, prefix + "places", [-1, *part.positions, *shape])
        if part.shown:
            axes: list[str | int | None] = ["batch", *part.positions, *shape]
            info = onnx.helper.make_tensor_value_info(part.name, kind.elem_type, axes)  # noqa: TID251 - of the builder
            self._graph.output.append(info)

    def _reshape(self, value: str, name: str, shape: str, axes: Sequence[int]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), shape))
        self._graph.node.append(
            onnx.helper.make_node("Reshape", [value, shape], [name], name=name)  # noqa: TID251 - as above
        )
        return name

    def _constant(self, prefix: str, tensor: Any) -> str:
        """The name of a constant of a part in the whole graph."""
        bare = TensorProto()
        bare.CopyFrom(tensor)
        bare.name = ""
        key = bytes(bare.SerializeToString())
        if key not in self._known:
            self._known[key] = prefix + tensor.name
            bare.name = prefix + tensor.name
            self._graph.initializer.append(bare)
        return self._known[key]


def notes(model: bytes) -> tuple[str, ...]:
    """A sentence for each kind of operator that the operator allowlist of a server rejects."""
    opened = onnx.load_model_from_string(model)
    reasons = {(node.domain, node.op_type): "" for node in opened.graph.node}
    for kind in reasons:
        reasons[kind] = custom_ops.why_not(*kind)
    return tuple(
        f"the graph has the operator {name}, which {why}: kanserve accepts it only with --graph-allowlist relaxed"
        for (_, name), why in reasons.items()
        if why
    )


def outputs(graph: bytes) -> dict[str, tuple[int, ...]]:
    """The names of the outputs of a graph, and the shape of each after its rows."""
    return {
        output.name: tuple(axis.dim_value for axis in output.type.tensor_type.shape.dim[1:])
        for output in onnx.load_model_from_string(graph).graph.output
    }
