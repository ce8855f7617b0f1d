"""Matrix products of a network's layers without other operators: the minimum time of a dense formulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kanexport.shared.ort import onnxruntime
from kanserve.contrib.bench.entrants import Execute, Feeds, error
from kanserve.contrib.bench.mlp_graph import IR, OPSET
from kanserve.types import Array

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Products:
    """Operands of each layer's product: `inputs` [N, depth] and `weights` [depth, m]."""

    inputs: tuple[Floats, ...]
    weights: tuple[Floats, ...]

    def graph(self) -> bytes:
        """Every product by itself: a0 -> y0, a1 -> y1, ..."""
        at = range(len(self.weights))
        nodes = [helper.make_node("MatMul", [f"a{i}", f"w{i}"], [f"y{i}"]) for i in at]
        inputs = [_tensor(f"a{i}", len(self.weights[i])) for i in at]
        outputs = [_tensor(f"y{i}", self.weights[i].shape[1]) for i in at]
        constants = [numpy_helper.from_array(self.weights[i], f"w{i}") for i in at]
        graph = helper.make_graph(nodes, "products", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        data: bytes = model.SerializeToString()
        return data

    def answer(self, threads: int) -> Execute:
        """A function that computes the products for as many rows as the feeds have, and ignores their values."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(self.graph(), options, providers=["CPUExecutionProvider"])

        def run(feeds: Feeds) -> list[Array]:
            rows = len(next(iter(feeds.values())))
            results: list[Array] = session.run(
                None, {f"a{i}": rows_of_layer[:rows] for i, rows_of_layer in enumerate(self.inputs)}
            )
            return results

        return run

    def check(self, answer: Execute, rows: int) -> float:
        """The largest error of a product, relative to its largest value."""
        results = answer({"rows": np.zeros(rows)})
        right = [
            inputs[:rows].astype(np.float64) @ weights
            for inputs, weights in zip(self.inputs, self.weights, strict=True)
        ]
        return max(error(result, exact, exact) for result, exact in zip(results, right, strict=True))


def random(depths: Sequence[tuple[int, int]], most: int) -> Products:
    """As dense as the basis of a spline is not: half of a product's numbers would be zeros, which takes as long."""
    rng = np.random.default_rng(0)
    return Products(
        tuple(rng.uniform(0, 1, (most, depth)).astype(np.float32) for depth, _ in depths),
        tuple((rng.standard_normal((depth, m)) / depth**0.5).astype(np.float32) for depth, m in depths),
    )


def _tensor(name: str, width: int) -> object:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])
