"""Functions that a user writes down: `x*sin(x)` becomes a function with both faces.

Python's parser reads the text, and nothing of it is executed: the tree is walked, and what is
not in the list below is refused by name.

    x, numbers, pi, e    + - * / **    parentheses    sin(...), and the other functions of
                                                      the symbolic table that have such a name

Parts without x are computed once, in float64. Semantics are numpy's: the logarithm of a
negative number is NaN, and x / 0 infinite.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanexport.errors import OptionError
from kanexport.functions.unary import SYMBOLIC, Unary

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]

LENGTH, DEPTH = 500, 50  # characters, and parts inside one another
POWER = 16  # integer exponents up to this are products
CONSTANTS = {"pi": math.pi, "e": math.e}
FUNCTIONS = {name: function for name, function in SYMBOLIC.items() if name.isidentifier() and name != "x"}
GRAMMAR = "x, numbers, pi, e, + - * / **, parentheses and " + ", ".join(FUNCTIONS)

BINARY: dict[type, tuple[str, Callable[[Array, Array], Array]]] = {
    ast.Add: ("Add", np.add),
    ast.Sub: ("Sub", np.subtract),
    ast.Mult: ("Mul", np.multiply),
    ast.Div: ("Div", np.divide),
    ast.Pow: ("Pow", np.power),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an expression; `constant` is its value if it does not depend on x."""

    evaluate: Callable[[Array], Array]
    emit: Callable[[Graph, Value], Value]
    constant: float | None = None


def function(name: str, text: str) -> Unary:
    """The function of that name. Raises OptionError, saying what is wrong with the text."""
    what = f"--function {name[:40]}={text[:80]!r}"
    if len(text) > LENGTH or not (text.isascii() and text.isprintable()):
        raise OptionError(f"{what}: expected at most {LENGTH} printable ASCII characters", hint=f"known: {GRAMMAR}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd numbers such as 1or
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise OptionError(f"{what} is no expression", hint=f"known: {GRAMMAR}") from error
    try:
        part = _part(tree.body, DEPTH)
    except OptionError as error:
        raise OptionError(f"{what}: {error.message}", hint=error.hint or f"known: {GRAMMAR}") from error
    except RecursionError as error:  # from showing what is not allowed
        raise OptionError(f"{what}: a part of it is not allowed", hint=f"known: {GRAMMAR}") from error
    if part.constant is not None:
        raise OptionError(f"{what} does not depend on x", hint="a constant belongs to the edge's affine values")
    return Unary(name, part.evaluate, part.emit, text.strip())


def _part(node: ast.AST, depth: int) -> Part:
    """Raises OptionError for what is not in the grammar."""
    if depth == 0:
        raise OptionError(f"more than {DEPTH} parts lie inside one another")
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.Name):
        return _name(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _part(node.operand, depth - 1)
        return inner if isinstance(node.op, ast.UAdd) else _applied(np.negative, lambda g, x: g.op("Neg", x), inner)
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        return _binary(type(node.op), _part(node.left, depth - 1), _part(node.right, depth - 1))
    if isinstance(node, ast.Call):
        return _call(node, depth)
    power = isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor)
    raise OptionError(
        f"{ast.unparse(node)[:60]!r} is not allowed", hint="a power is written **, as in x**2" if power else ""
    )


def _number(value: object) -> Part:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{value!r:.60} is not allowed")
    try:
        return _constant(float(value))
    except OverflowError:
        return _constant(math.inf)


def _constant(value: float) -> Part:
    """Raises OptionError where the value is not finite."""
    if not math.isfinite(value):
        raise OptionError(f"a part of it is {value}")
    return Part(lambda x: np.full_like(x, value), lambda g, x: g.const(value), value)


def _name(name: str) -> Part:
    if name == "x":
        return Part(lambda x: x, lambda g, x: x)
    if name in CONSTANTS:
        return _constant(CONSTANTS[name])
    raise OptionError(f"{name[:60]!r} is not known")


def _call(node: ast.Call, depth: int) -> Part:
    name = ast.unparse(node.func)
    if name not in FUNCTIONS:
        raise OptionError(f"function {name[:60]!r} is not known")
    if len(node.args) != 1 or node.keywords:
        raise OptionError(f"{name} takes one value")
    called = FUNCTIONS[name]
    return _applied(called.evaluate, called.emit, _part(node.args[0], depth - 1))


def _applied(evaluate: Callable[[Array], Array], emit: Callable[[Graph, Value], Value], inner: Part) -> Part:
    if inner.constant is not None:
        return _constant(_fold(lambda: evaluate(np.array([inner.constant]))))
    return Part(lambda x: evaluate(inner.evaluate(x)), lambda g, x: emit(g, inner.emit(g, x)))


def _fold(compute: Callable[[], Array]) -> float:
    with np.errstate(all="ignore"):
        return float(compute()[0])


def _binary(kind: type, left: Part, right: Part) -> Part:
    operator, compute = BINARY[kind]
    if left.constant is not None and right.constant is not None:
        a, b = np.array([left.constant]), np.array([right.constant])
        return _constant(_fold(lambda: compute(a, b)))

    def evaluate(x: Array) -> Array:
        return compute(left.evaluate(x), right.evaluate(x))

    exponent = right.constant
    if operator == "Pow" and exponent is not None and exponent == int(exponent) and 0 < abs(exponent) <= POWER:
        return Part(evaluate, lambda g, x: _emit_power(g, left.emit(g, x), int(exponent)))
    return Part(evaluate, lambda g, x: g.op(operator, left.emit(g, x), right.emit(g, x)))


def _emit_power(g: Graph, base: Value, exponent: int) -> Value:
    """By squaring: exact for negative bases, and faster than Pow."""
    result, square, rest = None, base, abs(exponent)
    while rest:
        if rest % 2:
            result = square if result is None else g.mul(result, square)
        rest //= 2
        if rest:
            square = g.mul(square, square)
    assert result is not None
    return g.op("Reciprocal", result) if exponent < 0 else result
