"""The builder: what it writes is what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kanexport.operators.graph import Graph


@pytest.mark.parametrize("kind", ["Mul", "Div"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,)])
@pytest.mark.parametrize("constant", [1 + 3e-8, 1 - 2e-8, 1 + 2.3e-16, 1.0, 1 + 9e-8])
def test_constants_beside_one_are_kept_in_float64(
    kind: str, first: bool, shape: tuple[int, ...], constant: float
) -> None:
    """onnxruntime drops a product with a scalar that rounds to 1 in float32."""
    g = Graph("scaled", "float64")
    value, factor = g.op("Sqrt", g.input("x", 3)), g.const(np.full(shape, constant))
    found = g.op(kind, factor, value) if first else g.op(kind, value, factor)
    model = g.build({"y": (g.op("Abs", found), (3,))})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = np.array([[0.25, 2.0, 9.0]])
    root = np.sqrt(x)
    expected = {"Mul": root * constant, "Div": constant / root if first else root / constant}[kind]
    np.testing.assert_array_equal(session.run(["y"], {"x": x})[0], expected)
