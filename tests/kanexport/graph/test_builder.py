"""The graph builder: onnxruntime computes the operators that it writes."""

import itertools

import numpy as np
import onnx
import pytest

from kanexport.graph.builder import Graph, Value
from tests.support.conformance import Emitted, check_each


@pytest.mark.parametrize("kind", ["Mul", "Div"])
@pytest.mark.parametrize("first", [False, True])
def test_constants_beside_one_are_kept_in_float64(kind: str, first: bool) -> None:
    constants = [1 + 3e-8, 1 - 2e-8, 1 + 2.3e-16, 1.0, 1 + 9e-8]
    check_each(check_constant, itertools.product([(), (1,), (1, 1), (3,)], constants), kind, first)


def check_constant(item: tuple[tuple[int, ...], float], kind: str, first: bool) -> None:
    """onnxruntime drops a product with a scalar that rounds to 1 in float32."""
    shape, constant = item

    def emit(g: Graph, x: Value) -> Value:
        value, factor = g.op("Sqrt", x), g.const(np.full(shape, constant))
        return g.op("Abs", g.op(kind, factor, value) if first else g.op(kind, value, factor))

    x = np.array([[0.25, 2.0, 9.0]])
    root = np.sqrt(x)
    expected = {"Mul": root * constant, "Div": constant / root if first else root / constant}[kind]
    np.testing.assert_array_equal(Emitted(emit, 3, (3,), "float64", exact=True)(x), expected)


FAULTS = onnx.defs.SchemaError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError


def test_a_faulty_operator_fails_where_it_is_asked_for() -> None:
    g = Graph("faulty", "float32")
    x = g.input("x", 3)
    with pytest.raises(FAULTS, match="Sinus"):
        g.op("Sinus", x)
    with pytest.raises(FAULTS, match="input size 1"):
        g.op("Add", x)
    with pytest.raises(FAULTS, match="Unrecognized attribute: angle"):
        g.op("Sin", x, angle=1)
    with pytest.raises(FAULTS, match="inconsistent type"):
        g.add(x, g.op("Cast", x, to=onnx.TensorProto.DOUBLE))
    with pytest.raises(FAULTS, match="Incompatible dimensions"):
        g.add(x, g.const([1.0, 2.0]))
    with pytest.raises(FAULTS, match="rank 2"):
        g.gemm(x, g.const(np.zeros((2, 3, 4))))
    with pytest.raises(FAULTS, match="axis"):
        g.sum(x, axis=2)
    # None of them is left behind: what is asked for afterwards is built.
    g.build({"y": (g.sum(x, axis=1, keepdims=True), (1,))})
