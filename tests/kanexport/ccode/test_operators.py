"""Operators in C, compared with onnxruntime on the same graph."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from kanexport.ccode import operators
from kanexport.ccode.nodes import FLOAT, Given
from kanexport.errors import InvalidKan
from kanexport.graph.builder import Graph, Value
from kanexport.graph.opened import Operator, opened
from tests.support import c_code

Emit = Callable[[Graph, Value], Value]
WIDTH = 6
ROWS = np.array(
    [[-2.5, -0.5, 0.0, 0.5, 1.5, 3.0], [0.25, -1.0, 2.0, -0.125, 7.0, 1e-3], [np.nan, np.inf, -np.inf, 1.0, 2.0, -3.0]],
    dtype=np.float32,
)


def unary(kind: str) -> Emit:
    return lambda g, x: g.op(kind, x)


def binary(kind: str) -> Emit:
    return lambda g, x: g.op(kind, x, g.const(np.linspace(-1, 2, WIDTH)[None]))


def compared(kind: str) -> Emit:
    return lambda g, x: g.cast(g.op(kind, x, g.const([[0.5]])))


def logical(kind: str) -> Emit:
    return lambda g, x: g.cast(g.op(kind, g.op("Less", x, g.const(1.0)), g.op("Greater", x, g.const(-1.0))))


def outer(g: Graph, x: Value) -> Value:
    """[B, 3, I]: a sum over two axes of a product that broadcasts, of a value that is costly."""
    costly = g.reshape(g.op("Exp", g.op("Tanh", x)), 0, 1, WIDTH)
    return g.sum(g.mul(costly, g.const(np.arange(3.0)[None, :, None])), axis=1)


def attention(g: Graph, x: Value) -> Value:
    """Products of matrices that both depend on the row, one of them transposed."""
    matrix = g.reshape(x, 0, 2, 3)
    square = g.op("MatMul", g.transpose(g.mul(matrix, matrix), 0, 2, 1), matrix)
    return g.reshape(square, 0, 9)


CASES: dict[str, Emit] = {
    **{name: unary(name) for name in ("Abs", "Atan", "Ceil", "Cos", "Exp", "Floor", "Identity", "Log", "Neg")},
    **{name: unary(name) for name in ("Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Tan", "Tanh")},
    **{name: binary(name) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu")},
    **{name: compared(name) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{name: logical(name) for name in ("And", "Or")},
    "IsNaN and Not": lambda g, x: g.cast(g.op("Not", g.op("IsNaN", x))),
    "Where": lambda g, x: g.op("Where", g.op("Greater", x, g.const(0.0)), x, g.nan()),
    "Clip": lambda g, x: g.clip(x, -1, 2),
    "HardSigmoid": lambda g, x: g.hard_sigmoid(x, alpha=0.25, beta=0.5),
    "Pow 3": lambda g, x: g.pow(x, 3),
    "Pow 1.5": lambda g, x: g.pow(x, 1.5),
    "Gather": lambda g, x: g.gather(x, [5, 0, 0, 3], axis=1),
    "Gather steps": lambda g, x: g.gather(x, [1, 3, 5], axis=1),
    "Slice": lambda g, x: g.slice(x, 1, 4, axis=1),
    "Concat": lambda g, x: g.op("Concat", g.op("Sin", x), x, g.op("Cos", x), axis=1),
    "Pad": lambda g, x: g.op("Pad", x, g.index([0, 1, 0, 2]), g.const(1.5)),
    "Gemm": lambda g, x: g.gemm(x, g.const(np.arange(4.0 * WIDTH).reshape(WIDTH, 4)), g.const([[1.0, 2, 3, 4]])),
    "ReduceSum": lambda g, x: g.sum(x, axis=1, keepdims=True, exact=True),
    "ReduceMax": lambda g, x: g.op("ReduceMax", x, axes=[1], keepdims=1),
    "ReduceMin": lambda g, x: g.op("ReduceMin", x, axes=[1], keepdims=0),
    "outer": outer,
    "attention": attention,
    "the input": lambda g, x: x,
}


def test_operators_are_those_of_onnxruntime() -> None:
    c_code.needs("cc")
    g, parts = Graph("test", "float32"), {}
    x = g.input("x", WIDTH)
    for name, emit in CASES.items():
        y = emit(g, x)
        parts[name] = g.reshape(y, 0, int(np.prod([size for size in g.shape(y)[1:] if size])))
    ends = np.cumsum([g.shape(part)[1] for part in parts.values()])
    width = int(ends[-1])
    model = g.build({"y": (g.op("Concat", *parts.values(), axis=1), (width,))})
    (expected,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["y"], {"x": ROWS})
    value = operators.nodes(opened(model), {"x": Given((1, WIDTH), FLOAT, "x")})["y"]
    with c_code.of_value(value, WIDTH, width) as program:
        computed, _ = program.run(ROWS)
    near = np.isclose(computed, expected, rtol=2e-6, atol=1e-6, equal_nan=True).all(axis=0)
    assert [name for name, same in zip(parts, np.split(near, ends[:-1]), strict=True) if not same.all()] == []


def test_an_operator_of_another_domain_is_named() -> None:
    operator = Operator("Magic", "elsewhere", ("x",), ("y",), {})
    graph = opened(Graph("empty", "float32").build({}))
    given = {"x": Given((1, 2), FLOAT, "x")}
    with pytest.raises(InvalidKan, match=r"the operator elsewhere\.Magic has no C code"):
        operators.nodes(type(graph)({}, (), (operator,), {}), given)
