"""External data of a model: one file with the constants that its graphs share. Each constant is stored once.

ONNX calls that external data. A tensor of a graph names the file, an offset and a length, and has
a shape of its own: the same bytes can be [K * I, O] in one graph and [K, I, O] in another. If a program
loads `model.onnx` by its path, the runtime finds the file next to it. The server gives the runtime the
bytes that it has checked.

A smaller model keeps its constants in its graphs, and the edges have them a second time: a graph that
is one file goes through every tool as it is, and that is worth more than a few MiB. An MNIST classifier
of [784, 64, 10] has 2 MiB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from kanexport.shared.manifest import WEIGHTS_FILE

SHARED_FROM = 8 * 2**20  # bytes of coefficients from which a model has such a file
PAGE = 4096  # bytes: what a tensor's offset is a multiple of, so that it can be mapped; smaller ones stay in the graphs

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """Position of a constant in the file, in bytes."""

    offset: int
    length: int


class Weights:
    """Constants of the file, in memory: each array as it was given, not joined to one."""

    def __init__(self) -> None:
        self._arrays: dict[int, Array] = {}  # flat, by offset
        self._by_content: dict[bytes, ExternalTensor] = {}
        self._by_origin: dict[tuple[Any, ...], tuple[ExternalTensor, tuple[object, ...]]] = {}
        self.size = 0  # of the file, bytes

    def keep(self, array: Array) -> ExternalTensor:
        """An array, or an earlier one with the same bytes."""
        flat = np.ascontiguousarray(array).reshape(-1)
        digest = hashlib.blake2b(flat.data.cast("B"), digest_size=32).digest()
        if digest not in self._by_content:
            self._by_content[digest] = self._append(flat)
        return self._by_content[digest]

    def derived(self, origin: tuple[object, ...], make: Callable[[], Array]) -> ExternalTensor:
        """A constant derived from the objects and numbers of `origin`, computed once. It is for arrays that are too
        large to be computed by every graph that needs them."""
        key = tuple(item if isinstance(item, float | str) else id(item) for item in origin)
        if key not in self._by_origin:  # an id is of use as long as its object lives
            self._by_origin[key] = self._append(np.ascontiguousarray(make()).reshape(-1)), origin
        return self._by_origin[key][0]

    def _append(self, flat: Array) -> ExternalTensor:
        place = ExternalTensor(self.size, flat.nbytes)
        self._arrays[place.offset] = flat
        self.size += -(-flat.nbytes // PAGE) * PAGE
        return place

    def content(self) -> Iterator[memoryview]:
        """The bytes of the file, in order."""
        for flat in self._arrays.values():
            yield flat.data.cast("B")
            yield memoryview(bytes(-flat.nbytes % PAGE))

    def as_inputs(self, model: bytes) -> tuple[bytes, dict[str, Array]]:
        """A model with its constants of the file as inputs, and their arrays by name; not copied."""
        opened = onnx.load_model_from_string(model)
        arrays = {}
        for tensor in externals_to_inputs(opened):
            offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)  # noqa: TID251 - as in builder.py
            arrays[tensor.name] = self._arrays[offset].view(dtype).reshape(tuple(tensor.dims))
        return bytes(opened.SerializeToString()), arrays


def external(name: str, element: int, shape: tuple[int, ...], place: ExternalTensor) -> Any:
    """The tensor of a graph in the file; `element`: its ONNX type number."""
    tensor = TensorProto(name=name, data_type=element, dims=shape, data_location=TensorProto.EXTERNAL)
    facts = {"location": WEIGHTS_FILE, "offset": place.offset, "length": place.length}
    for key, value in facts.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def externals_to_inputs(model: Any) -> list[Any]:
    """Turn the tensors of the file into inputs of the model, as a checker and a runtime see them."""
    graph = model.graph
    moved = [tensor for tensor in graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    internal = [tensor for tensor in graph.initializer if tensor.data_location != TensorProto.EXTERNAL]
    if moved:
        del graph.initializer[:]
        graph.initializer.extend(internal)
        for tensor in moved:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))  # noqa: TID251 - as above
            graph.input.append(info)
    return moved


def share(model: bytes, weights: Weights | None) -> bytes:
    """A model with every constant of a page or more in the file, if there is one."""
    if weights is None:
        return model
    opened = onnx.load_model_from_string(model)
    for tensor in opened.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and len(tensor.raw_data) >= PAGE:
            array = np.frombuffer(tensor.raw_data, dtype=np.uint8)
            moved = external(tensor.name, tensor.data_type, tuple(tensor.dims), weights.keep(array))
            tensor.CopyFrom(moved)
    return bytes(opened.SerializeToString())


def check(model: Any) -> None:
    """Raises onnx.checker.ValidationError or onnx.shape_inference.InferenceError for an invalid model."""
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        small = type(model)()
        small.CopyFrom(model)
        externals_to_inputs(small)
        model = small
    onnx.checker.check_model(model, full_check=True)
