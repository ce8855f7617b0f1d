"""Custom functions: a text such as `x*sin(x)` becomes numpy code and ONNX operators.

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
from typing import Any

import numpy as np

from kanexport.errors import OptionError
from kanexport.functions.elementwise import SYMBOLIC, Array, Unary
from kanexport.graph.builder import Graph, Value

EXPRESSION = "expression"  # kind of recipe
MAX_TEXT_CHARACTERS = 500  # an expression stands in messages, and in the manifest
MAX_TEXT_DEPTH = 50  # parts inside one another: evaluation recurses as deep
MAX_PRODUCT_POWER = 16  # integer exponents up to this are products; larger ones are left to Pow
CONSTANTS = {"pi": math.pi, "e": math.e}
FUNCTIONS = {name: function for name, function in SYMBOLIC.items() if name.isidentifier() and name != "x"}
GRAMMAR = "x, numbers, pi, e, + - * / **, parentheses and " + ", ".join(FUNCTIONS)
USE_GRAMMAR = f"use only {GRAMMAR}"

BINARY: dict[type, tuple[str, Callable[[Array, Array], Array]]] = {
    ast.Add: ("Add", np.add),
    ast.Sub: ("Sub", np.subtract),
    ast.Mult: ("Mul", np.multiply),
    ast.Div: ("Div", np.divide),
    ast.Pow: ("Pow", np.power),
}


@dataclass(frozen=True, slots=True)
class Part:
    """Part of an expression; `constant` is its value if it does not depend on x."""

    evaluate: Callable[[Array], Array]
    emit: Callable[[Graph, Value], Value]
    constant: float | None = None


def function(name: str, text: str, *, what: str = "") -> Unary:
    """The function of that name. `what`: the option with the text, for messages. Raises OptionError, which names the
    fault of the text."""
    what = what or f"--function {name[:40]}={text[:80]!r}"
    part = _part_of(text, what)
    if part.constant is not None:
        raise OptionError(
            f"{what} does not depend on x",
            code="expression-invalid",
            hint="write an expression of x; the affine values of the edge add constants",
        )
    return Unary(name, part.evaluate, part.emit, text.strip(), recipe=(EXPRESSION, name, text.strip()))


def constant(node: str | ast.expr, *, what: str = "") -> float | None:
    """The value of an expression without x; None if it depends on x. Raises OptionError, as `function`."""
    text = node if isinstance(node, str) else ast.unparse(node)
    return _part_of(text, what or repr(text[:80])).constant


def _part_of(text: str, what: str) -> Part:
    """The whole expression. Raises OptionError, which starts with `what`."""
    if len(text) > MAX_TEXT_CHARACTERS or not (text.isascii() and text.isprintable()):
        raise OptionError(
            f"{what}: expected at most {MAX_TEXT_CHARACTERS} printable ASCII characters",
            code="expression-invalid",
            hint=USE_GRAMMAR,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd numbers such as 1or
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise OptionError(f"{what} is not an expression", code="expression-invalid", hint=USE_GRAMMAR) from error
    try:
        return _part(tree.body, MAX_TEXT_DEPTH)
    except OptionError as error:
        hint = error.hint or USE_GRAMMAR
        raise OptionError(f"{what}: {error.message}", code=error.code, hint=hint) from error
    except RecursionError as error:  # from showing what is not allowed
        raise OptionError(
            f"{what}: a part of it is not allowed", code="expression-invalid", hint=USE_GRAMMAR
        ) from error


def _part(node: ast.AST, depth: int) -> Part:
    """A part of an expression, with at most `depth` nested parts. Raises OptionError for text outside the grammar."""
    if depth == 0:
        raise OptionError(
            f"more than {MAX_TEXT_DEPTH} parts are nested", code="expression-invalid", hint="shorten the expression"
        )
    if type(node) not in PARTS:
        raise _not_allowed(node)
    return PARTS[type(node)](node, depth)


def _not_allowed(node: ast.AST) -> OptionError:
    power = isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor)
    return OptionError(
        f"{ast.unparse(node)[:60]!r} is not allowed",
        code="expression-invalid",
        hint="write a power as **, as in x**2" if power else USE_GRAMMAR,
    )


def _number(node: ast.Constant, depth: int) -> Part:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise OptionError(f"{node.value!r:.60} is not allowed", code="expression-invalid", hint=USE_GRAMMAR)
    try:
        return _constant(float(node.value))
    except OverflowError:
        return _constant(math.inf)


def _constant(value: float) -> Part:
    """Raises OptionError for a value that is not finite."""
    if not math.isfinite(value):
        raise OptionError(
            f"a part of it is {value}, expected a finite number", code="expression-invalid", hint="use smaller numbers"
        )
    return Part(lambda x: np.full_like(x, value), lambda g, x: g.const(value), value)


def _name(node: ast.Name, depth: int) -> Part:
    if node.id == "x":
        return Part(lambda x: x, lambda g, x: x)
    if node.id in CONSTANTS:
        return _constant(CONSTANTS[node.id])
    raise OptionError(f"unknown name {node.id[:60]!r}", code="expression-invalid", hint=USE_GRAMMAR)


def _signed(node: ast.UnaryOp, depth: int) -> Part:
    if not isinstance(node.op, ast.USub | ast.UAdd):
        raise _not_allowed(node)
    inner = _part(node.operand, depth - 1)
    return inner if isinstance(node.op, ast.UAdd) else _applied(np.negative, lambda g, x: g.op("Neg", x), inner)


def _call(node: ast.Call, depth: int) -> Part:
    name = ast.unparse(node.func)
    if name not in FUNCTIONS:
        raise OptionError(f"unknown function {name[:60]!r}", code="expression-invalid", hint=USE_GRAMMAR)
    if len(node.args) != 1 or node.keywords:
        raise OptionError(f"{name} takes one value", code="expression-invalid", hint=f"write {name}(x)")
    called = FUNCTIONS[name]
    return _applied(called.evaluate, called.emit, _part(node.args[0], depth - 1))


def _applied(evaluate: Callable[[Array], Array], emit: Callable[[Graph, Value], Value], inner: Part) -> Part:
    if inner.constant is not None:
        return _constant(_fold(lambda: evaluate(np.array([inner.constant]))))
    return Part(lambda x: evaluate(inner.evaluate(x)), lambda g, x: emit(g, inner.emit(g, x)))


def _fold(compute: Callable[[], Array]) -> float:
    with np.errstate(all="ignore"):
        return float(compute()[0])


def _binary(node: ast.BinOp, depth: int) -> Part:
    if type(node.op) not in BINARY:
        raise _not_allowed(node)
    operator, compute = BINARY[type(node.op)]
    left, right = _part(node.left, depth - 1), _part(node.right, depth - 1)
    if left.constant is not None and right.constant is not None:
        a, b = np.array([left.constant]), np.array([right.constant])
        return _constant(_fold(lambda: compute(a, b)))

    def evaluate(x: Array) -> Array:
        return compute(left.evaluate(x), right.evaluate(x))

    exponent = right.constant
    if operator == "Pow" and exponent is not None and exponent == int(exponent):
        power = int(exponent)
        if 0 < abs(power) <= MAX_PRODUCT_POWER:
            return Part(evaluate, lambda g, x: _emit_power(g, left.emit(g, x), power))
    return Part(evaluate, lambda g, x: g.op(operator, left.emit(g, x), right.emit(g, x)))


def _emit_power(g: Graph, base: Value, exponent: int) -> Value:
    """A power by squaring: exact for negative bases, and faster than Pow."""
    result, square, rest = None, base, abs(exponent)
    while rest:
        if rest % 2:
            result = square if result is None else g.mul(result, square)
        rest //= 2
        if rest:
            square = g.mul(square, square)
    assert result is not None
    return g.op("Reciprocal", result) if exponent < 0 else result


# How each kind of node is read; nothing else is in the grammar.
PARTS: dict[type, Callable[[Any, int], Part]] = {
    ast.Constant: _number,
    ast.Name: _name,
    ast.UnaryOp: _signed,
    ast.BinOp: _binary,
    ast.Call: _call,
}
