"""ONNX operators as nodes, for graphs with one row.

An operator that is not in this module is an error, which names it. Functions whose C is longer than an expression are
helpers of `ccode/source.py`; their names begin with `@`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kanexport.ccode.nodes import (
    BOOL,
    FLOAT,
    INT,
    Array,
    Constant,
    Joined,
    Mapped,
    Node,
    Product,
    Reduced,
    Splines,
    broadcast,
    reshaped,
    selected,
    transposed,
)
from kanexport.errors import InvalidKan
from kanexport.graph.opened import OpenedGraph, Operator, whole
from kanexport.shared import custom_ops

CALL, QUOTIENT = 20, 4  # what a function of <math.h> and a division cost, in additions

# C of functions of elements, what they cost, and the kind of the result, if it is not that of the first operand.
ELEMENTS: dict[str, tuple[str, int, str]] = {
    "Abs": ("fabsf({0})", 1, ""),
    "Add": ("({0} + {1})", 1, ""),
    "And": ("({0} && {1})", 1, BOOL),
    "Atan": ("atanf({0})", CALL, ""),
    "Ceil": ("ceilf({0})", 2, ""),
    "Cos": ("cosf({0})", CALL, ""),
    "Div": ("({0} / {1})", QUOTIENT, ""),
    "Equal": ("({0} == {1})", 1, BOOL),
    "Erf": ("erff({0})", CALL, ""),
    "Exp": ("expf({0})", CALL, ""),
    "Floor": ("floorf({0})", 2, ""),
    "Greater": ("({0} > {1})", 1, BOOL),
    "GreaterOrEqual": ("({0} >= {1})", 1, BOOL),
    "IsNaN": ("@isnan({0})", 1, BOOL),
    "Less": ("({0} < {1})", 1, BOOL),
    "LessOrEqual": ("({0} <= {1})", 1, BOOL),
    "Log": ("logf({0})", CALL, ""),
    "Mul": ("({0} * {1})", 1, ""),
    "Neg": ("(-{0})", 1, ""),
    "Not": ("(!{0})", 1, BOOL),
    "Or": ("({0} || {1})", 1, BOOL),
    "PRelu": ("@prelu({0}, {1})", 2, ""),
    "Reciprocal": ("(1.0f / {0})", QUOTIENT, ""),
    "Relu": ("@relu({0})", 1, ""),
    "Round": ("rintf({0})", 2, ""),
    "Sigmoid": ("@sigmoid({0})", CALL, ""),
    "Sign": ("@sign({0})", 2, ""),
    "Sin": ("sinf({0})", CALL, ""),
    "Sqrt": ("sqrtf({0})", QUOTIENT, ""),
    "Sub": ("({0} - {1})", 1, ""),
    "Tan": ("tanf({0})", CALL, ""),
    "Tanh": ("tanhf({0})", CALL, ""),
}

Operands = list[Node]
Make = Callable[[Operator, Operands], Node]


def nodes(graph: OpenedGraph, inputs: Mapping[str, Node]) -> dict[str, Node]:
    """The values of a graph by name. `inputs`: those of its inputs. Raises InvalidKan for an operator without C."""
    values: dict[str, Node] = {name: Constant.of(array) for name, array in graph.constants.items()}
    values |= inputs
    for operator in graph.operators:
        operands = [values[name] for name in operator.inputs if name]
        if operator.domain == custom_ops.DOMAIN and operator.kind in (custom_ops.SPLINES, custom_ops.SPLINE_EDGES):
            value = _splines(operator, operands)
        elif operator.domain or len(operator.outputs) != 1:
            raise _unknown(operator)
        elif operator.kind in ELEMENTS:
            value = _element(operator.kind, operands)
        elif operator.kind in MAKERS:
            value = MAKERS[operator.kind](operator, operands)
        else:
            raise _unknown(operator)
        values[operator.outputs[0]] = value
    return values


def _unknown(operator: Operator) -> InvalidKan:
    name = f"{operator.domain}.{operator.kind}" if operator.domain else operator.kind
    return InvalidKan(
        f"the operator {name} has no C code",
        code="c-operator-unsupported",
        hint="export the ONNX graph without --c; the guide about C code has another way for such graphs",
    )


def _element(kind: str, operands: Operands) -> Node:
    template, cost, result = ELEMENTS[kind]
    constants = [value.array for value in operands if isinstance(value, Constant) and value.kind == INT]
    if kind in FOLDED and len(constants) == len(operands):
        return Constant.of(FOLDED[kind](*constants))
    total = mapped(template, cost, *operands, kind=result)
    if kind == "Add":  # zeros, such as those of a bias, add nothing
        for value, other in (operands, operands[::-1]):
            if _all(other, 0) and value.shape == total.shape:
                return value
    return total


FOLDED: dict[str, Callable[..., Array]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}


def mapped(template: str, cost: int, *operands: Node, kind: str = "") -> Mapped:
    """A function of elements; `kind`: of the result, if it is not that of the first operand."""
    shape = broadcast(*(value.shape for value in operands))
    return Mapped(shape, kind or operands[0].kind, template, cost, tuple(operands))


def number(value: float) -> Constant:
    """A constant of one float."""
    return Constant.of(np.array(value, dtype=np.float32))


def _several(name: str) -> Make:
    """A function of two elements, applied to any number of operands."""

    def make(operator: Operator, operands: Operands) -> Node:
        result = operands[0]
        for other in operands[1:]:
            result = mapped(f"@{name}({{0}}, {{1}})", 2, result, other)
        return result

    return make


def _hard_sigmoid(operator: Operator, operands: Operands) -> Node:
    alpha, beta = (float(operator.attributes.get(name, usual)) for name, usual in (("alpha", 0.2), ("beta", 0.5)))
    return mapped("@clip({0} * {1} + {2}, 0.0f, 1.0f)", 4, operands[0], number(alpha), number(beta))


def _pow(operator: Operator, operands: Operands) -> Node:
    exponent = operands[1]
    if isinstance(exponent, Constant) and exponent.size == 1:
        power = float(exponent.array.reshape(-1)[0])
        if power.is_integer() and 2 <= power <= 9:
            return mapped(f"@power{int(power)}({{0}})", int(power), operands[0])
    return mapped("powf({0}, {1})", CALL, *operands)


def _cast(operator: Operator, operands: Operands) -> Node:
    kind = {1: FLOAT, 6: INT, 7: INT, 9: BOOL}.get(int(operator.attributes["to"]))
    if kind is None:
        raise _unknown(operator)
    value = operands[0]
    if value.kind == kind:
        return value
    return mapped(f"({kind})({{0}})" if kind != BOOL else "({0} != 0)", 1, value, kind=kind)


def _reshape(operator: Operator, operands: Operands) -> Node:
    value, shape = operands[0], list(_integers(operator, operands[1]))
    shape = [value.shape[at] if size == 0 else size for at, size in enumerate(shape)]
    if -1 in shape:
        shape[shape.index(-1)] = value.size // -int(np.prod(shape))
    return reshaped(value, tuple(shape))


def _integers(operator: Operator, value: Node) -> tuple[int, ...]:
    if not isinstance(value, Constant):
        raise InvalidKan(
            f"the operator {operator.kind} has shapes or indices that depend on the row",
            code="c-operator-unsupported",
            hint="export the ONNX graph without --c",
        )
    return whole(value.array)


def _gather(operator: Operator, operands: Operands) -> Node:
    value, indices = operands
    axis = int(operator.attributes.get("axis", 0)) % len(value.shape)
    shape = np.asarray(_integers(operator, indices), dtype=np.int64).reshape(indices.shape)
    return selected(value, axis, shape)


def _slice(operator: Operator, operands: Operands) -> Node:
    value, numbers = operands[0], [_integers(operator, part) for part in operands[1:]]
    starts, stops = numbers[:2]
    axes = numbers[2] if len(numbers) > 2 else tuple(range(len(starts)))
    steps = numbers[3] if len(numbers) > 3 else (1,) * len(starts)
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        value = selected(value, axis % len(value.shape), np.arange(value.shape[axis])[start:stop:step])
    return value


def _concat(operator: Operator, operands: Operands) -> Node:
    axis = int(operator.attributes["axis"]) % len(operands[0].shape)
    return _joined(axis, *operands)


def _joined(axis: int, *values: Node) -> Node:
    first = values[0]
    shape = (*first.shape[:axis], sum(value.shape[axis] for value in values), *first.shape[axis + 1 :])
    return Joined(shape, first.kind, axis, values)


def _pad(operator: Operator, operands: Operands) -> Node:
    value, counts = operands[0], _integers(operator, operands[1])
    filler = operands[2] if len(operands) > 2 else number(0.0)
    if operator.attributes.get("mode", "constant") != "constant" or not isinstance(filler, Constant):
        raise _unknown(operator)
    rank = len(value.shape)
    for axis in range(rank):
        shapes = [(*value.shape[:axis], counts[at], *value.shape[axis + 1 :]) for at in (axis, rank + axis)]
        before, after = (Constant.of(np.broadcast_to(filler.array.reshape(()), shape)) for shape in shapes)
        parts = [part for part in (before, value, after) if part is value or part.size]
        value = value if len(parts) == 1 else _joined(axis, *parts)
    return value


def _reduce(operation: str) -> Make:
    def make(operator: Operator, operands: Operands) -> Node:
        value, axes = operands[0], whole(operator.attributes.get("axes", ()))
        if len(operands) > 1 and "axes" not in operator.attributes:
            axes = _integers(operator, operands[1])
        axes = tuple(axis % len(value.shape) for axis in axes) or tuple(range(len(value.shape)))
        return reduced(value, axes, operation, keep=bool(operator.attributes.get("keepdims", 1)))

    return make


def reduced(value: Node, axes: tuple[int, ...], operation: str, *, keep: bool) -> Node:
    """A sum, the largest or the smallest element over some axes. `keep`: whether these stay, with one entry."""
    shape = tuple(1 if at in axes else size for at, size in enumerate(value.shape))
    result = Reduced(shape, value.kind, value, axes, operation)
    return result if keep else reshaped(result, tuple(size for at, size in enumerate(shape) if at not in axes))


def _matmul(operator: Operator, operands: Operands) -> Node:
    left, right = operands
    if min(len(left.shape), len(right.shape)) < 2:
        raise _unknown(operator)
    if _all(right, 1) and right.shape[-1] == 1:
        return reduced(left, (len(left.shape) - 1,), "sum", keep=True)
    if _all(left, 1) and left.shape[-2] == 1:
        return reduced(right, (len(right.shape) - 2,), "sum", keep=True)
    return product(left, right)


def product(left: Node, right: Node, start: Node | None = None) -> Node:
    """The matrix product, with the sums beginning at `start`."""
    outer = broadcast(left.shape[:-2], right.shape[:-2])
    return Product((*outer, left.shape[-2], right.shape[-1]), left.kind, left, right, start)


def _all(value: Node, equal: float) -> bool:
    return isinstance(value, Constant) and bool((value.array == equal).all())


def _gemm(operator: Operator, operands: Operands) -> Node:
    left, right = operands[:2]
    if operator.attributes.get("alpha", 1.0) != 1 or operator.attributes.get("beta", 1.0) != 1:
        raise _unknown(operator)
    left = transposed(left, (1, 0)) if operator.attributes.get("transA") else left
    right = transposed(right, (1, 0)) if operator.attributes.get("transB") else right
    return product(left, right, operands[2] if len(operands) > 2 else None)


def _integer_product(operator: Operator, operands: Operands) -> Node:
    if len(operands) > 2:
        raise _unknown(operator)
    return product(*operands)


def _splines(operator: Operator, operands: Operands) -> Node:
    """The custom operator of kanserve-kernel, and its form that returns each edge by itself."""
    value, start, *rest = operands
    knots, coef, *weights = (constant.array for constant in rest if isinstance(constant, Constant))
    facts, edges = operator.attributes, operator.kind == custom_ops.SPLINE_EDGES
    if facts.get("base", "") not in ("", "silu") or not 1 <= int(facts["degree"]) <= 5:
        raise _unknown(operator)
    sources, outputs = value.shape[1], coef.shape[1]
    return Splines(
        shape=(1, sources, outputs) if edges else (1, outputs),
        kind=FLOAT,
        value=value,
        start=None if edges else start,
        knots=knots,
        coef=coef.reshape(-1, sources, outputs),
        weights=weights[0] if weights else None,
        degree=int(facts["degree"]),
        scale=float(facts.get("scale", 1.0)),
        spreads=bool(facts.get("nan_spreads", 0)) and not edges,
    )


MAKERS: dict[str, Make] = {
    "Cast": _cast,
    "Clip": lambda operator, operands: mapped("@clip({0}, {1}, {2})", 2, *operands),
    "Concat": _concat,
    "Gather": _gather,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda operator, operands: operands[0],
    "MatMul": _matmul,
    "MatMulInteger": _integer_product,
    "Max": _several("max"),
    "Min": _several("min"),
    "Pad": _pad,
    "Pow": _pow,
    "ReduceMax": _reduce("max"),
    "ReduceMin": _reduce("min"),
    "ReduceSum": _reduce("sum"),
    "Reshape": _reshape,
    "Slice": _slice,
    "Transpose": lambda operator, operands: transposed(operands[0], whole(operator.attributes["perm"])),
    "Where": lambda operator, operands: mapped("({0} ? {1} : {2})", 1, *operands, kind=operands[1].kind),
}
