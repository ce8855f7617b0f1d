"""ONNX graph of an MLP: matrix products with biases, and ReLU between them.

Weights are random, because the benchmark uses only its time and the correctness of its outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kanserve.types import DTYPES

OPSET, IR = 17, 8  # every supported runtime has these versions
GIVEN, RESULT = "x", "y"
TYPES = {"FP32": onnx.TensorProto.FLOAT, "FP64": onnx.TensorProto.DOUBLE}


@dataclass(frozen=True, slots=True)
class Mlp:
    """MLP with the weights of its layers.

    weights   [n, m] for each layer
    biases    [m] for each layer
    datatype  FP32 or FP64
    """

    weights: tuple[NDArray[np.floating], ...]
    biases: tuple[NDArray[np.floating], ...]
    datatype: str

    def evaluate(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """[B, n] -> [B, m] in float64, by numpy: the reference of the graph."""
        values = x.astype(np.float64)
        for at, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = np.maximum(values, 0.0) if at else values
            values = values @ weight.astype(np.float64) + bias.astype(np.float64)
        return values

    def graph(self) -> bytes:
        """[B, n] `GIVEN` -> [B, m] `RESULT`."""
        nodes, constants, value, last = [], [], GIVEN, len(self.weights) - 1
        for at, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            constants += [numpy_helper.from_array(weight, f"w{at}"), numpy_helper.from_array(bias, f"b{at}")]
            product = RESULT if at == last else f"h{at}"
            nodes.append(helper.make_node("Gemm", [value, f"w{at}", f"b{at}"], [product]))
            value = f"r{at}"
            if at != last:
                nodes.append(helper.make_node("Relu", [product], [value]))
        ends = [
            helper.make_tensor_value_info(name, TYPES[self.datatype], ["rows", width])
            for name, width in ((GIVEN, len(self.weights[0])), (RESULT, len(self.biases[-1])))
        ]
        graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        data: bytes = model.SerializeToString()
        return data


def random(widths: Sequence[int], datatype: str, seed: int = 0) -> Mlp:
    """Weights by He's rule, so that values keep their magnitude."""
    rng = np.random.default_rng(seed)
    kind = DTYPES[datatype]
    weights = tuple((rng.standard_normal((n, m)) * (2 / n) ** 0.5).astype(kind) for n, m in itertools.pairwise(widths))
    return Mlp(weights, tuple((rng.standard_normal(m) * 0.1).astype(kind) for m in widths[1:]), datatype)
