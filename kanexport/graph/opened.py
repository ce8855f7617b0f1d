"""Serialized graphs as plain Python data, for code that reads graphs and does not build them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from kanexport.graph.external_data import Weights

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Operator:
    """Node of a graph: its operator, the names of its inputs and outputs, and its attributes.

    Absent optional inputs have the name "". A tensor attribute is a numpy array, text is a str.
    """

    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OpenedGraph:
    """Graph with its constants by name.

    inputs   the shape of one row of each input
    outputs  the names, in order
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    constants: Mapping[str, Array]


def opened(model: bytes, weights: Weights | None = None) -> OpenedGraph:
    """The graph of a serialized model. `weights`: the file from which it takes constants, which are not copied."""
    constants: dict[str, Array] = {}
    if weights is not None:
        model, constants = weights.as_inputs(model)
    graph = onnx.load_model_from_string(model).graph
    inputs = {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])
        for value in graph.input
        if value.name not in constants
    }
    constants |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    operators = []
    for node in graph.node:
        attributes = {item.name: _plain(onnx.helper.get_attribute_value(item)) for item in node.attribute}  # noqa: TID251 - reads
        operators.append(Operator(node.op_type, node.domain, tuple(node.input), tuple(node.output), attributes))
    return OpenedGraph(inputs, tuple(value.name for value in graph.output), tuple(operators), constants)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def whole(array: npt.ArrayLike) -> tuple[int, ...]:
    """A constant of integers as a tuple: axes, shapes and indices."""
    return tuple(int(number) for number in np.asarray(array).reshape(-1))
