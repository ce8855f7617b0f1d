"""The graphs of a KAN convolution: operators of torch.onnx for its functions, and operators of kanserve for its
edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from kanexport.ir.model import BasisTerm
from kanexport.lowering.lower import EDGES, INPUT, OUTPUT
from kanexport.torch_export import sampled_layer
from kanexport.torch_export.conv_capture import Functions
from kanexport.torch_export.conv_layer import ConvLayer, Convolved
from kanexport.torch_export.splice import ConvSubgraph, renamed
from kanexport.verify.graph_runner import Port


class _AllFunctions(nn.Module):
    """The functions [R, F] of rows [R, C] of one place."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.layer, self.functions = functions.call.module, functions

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        return self.functions.of(x)


def edges(convolved: Convolved, part: ConvLayer, name: str, dtype: str, most: int) -> bytes:
    """The edge graph of a layer, from `name` [N, I] to EDGES [N, I, m], while the module is lent in that type.
    Raises InvalidKan."""
    functions = part.basis.all
    if dtype not in convolved.traced:
        input_port, output_port = Port(INPUT, (functions.source.channels,)), Port(OUTPUT, (convolved.count,))
        convolved.traced[dtype] = sampled_layer.graph_of(
            _AllFunctions(functions), functions.source.channels, input_port, output_port, dtype, most
        )
    return _Edges(part, name, np.dtype(dtype)).build(convolved.traced[dtype])


def unfolded(part: ConvLayer, name: str, axes: tuple[int, ...], picture: tuple[int, ...]) -> ConvSubgraph:
    """The input of the layer, as an output of the whole graph. `axes`: of its vectors."""
    index = part.geometry.index(picture)
    inside = part.geometry.inside(picture).reshape(index.shape) if part.basis.inside else None
    return ConvSubgraph(name, tuple(part.basis.channels.tolist()), index, inside, axes)


class _Edges:
    """An edge graph around the functions of all channels."""

    def __init__(self, part: ConvLayer, name: str, dtype: np.dtype[Any]) -> None:
        self.part, self.name, self.dtype = part, name, dtype
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.own = len(part.basis.channels) * part.basis.places

    def build(self, functions: bytes) -> bytes:
        """`functions`: their graph, from INPUT [R, C] to OUTPUT [R, F]."""
        inner = onnx.load_model_from_string(functions)
        (term,) = self.part.layer.terms
        assert isinstance(term, BasisTerm)
        coef = term.coef.transpose(0, 2, 1)  # [I, K, m]
        basis, channels = self.part.basis, len(self.part.basis.channels)
        own = self._op("Slice", self.name, self._index([0]), self._index([self.own]), self._index([1]))
        x = self._op("Reshape", own, self._index([-1, channels, basis.places]))
        x = self._op("Reshape", self._op("Transpose", x, perm=[0, 2, 1]), self._index([-1, channels]))
        # Rows with all channels of the module; channels that do not belong to the layer are 0.
        mine = {int(channel): at for at, channel in enumerate(basis.channels)}
        row = [mine.get(channel, -1) for channel in range(basis.all.source.channels)]
        row_name = self._op("Gather", self._op("Pad", x, self._index([0, 0, 0, 1])), self._index(row), axis=1)
        self.nodes += renamed(inner.graph, {INPUT: row_name, OUTPUT: OUTPUT, "": ""}, "f/")
        for tensor in inner.graph.initializer:
            tensor.name = f"f/{tensor.name}"
            self.initializers.append(tensor)
        values = self._op("Pad", OUTPUT, self._index([0, 0, 0, 1]))  # the last one is no function
        values = self._op("Gather", values, self._index(basis.columns.reshape(-1)), axis=1)
        values = self._op("Reshape", values, self._index([-1, *basis.columns.shape]))
        if basis.zero is not None:
            # The values minus those at zero. The difference at zero is exactly 0.
            less = self._op("Sub", values, self._const(basis.zero))
            at_zero = self._op("Unsqueeze", self._op("Equal", x, self._const(np.zeros(()))), self._index([2]))
            values = self._op("Where", at_zero, self._const(np.zeros(())), less)
        values = self._op("Reshape", values, self._index([-1, basis.places, *basis.columns.shape]))
        values = self._op("Transpose", values, perm=[2, 1, 0, 3])
        values = self._op("Reshape", values, self._index([self.own, -1, basis.functions]))
        result = self._op("Transpose", self._op("MatMul", values, self._const(coef[: self.own])), perm=[1, 0, 2])
        if basis.inside:
            # [N, P, m]: the edges of the sources that mark the inside of the picture.
            width = self.own + basis.places
            there = self._op("Slice", self.name, self._index([self.own]), self._index([width]), self._index([1]))
            there = self._op("Mul", self._op("Unsqueeze", there, self._index([2])), self._const(coef[self.own :, 0]))
            result = self._op("Concat", result, there, axis=1)
        self.nodes.append(onnx.helper.make_node("Identity", [result], [EDGES], name=EDGES))
        return self._model(inner)

    def _model(self, inner: Any) -> bytes:
        helper, kind = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        shape = self.part.layer.mask.shape
        graph = helper.make_graph(
            self.nodes,
            "edges",
            [helper.make_tensor_value_info(self.name, kind, ["batch", shape[0]])],
            [helper.make_tensor_value_info(EDGES, kind, ["batch", *shape])],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=list(inner.opset_import), ir_version=inner.ir_version)
        model.producer_name = inner.producer_name
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def _index(self, values: npt.ArrayLike) -> str:
        return self._store(np.array(values, dtype=np.int64))

    def _const(self, values: npt.NDArray[np.float64]) -> str:
        return self._store(np.ascontiguousarray(values, dtype=self.dtype))

    def _store(self, array: npt.NDArray[Any]) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name
