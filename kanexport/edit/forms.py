"""Symbolic edges of expressions: in the form mask * (c * f(a * x + b) + d) with f of pykan's table if the text has that
form, otherwise with the whole text as the function.

Certificates, formulas and the gathered sums of a graph know the functions of the table by name.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, OptionError
from kanexport.functions import elementwise, expression
from kanexport.functions.elementwise import Unary
from kanexport.ir.model import SymbolicEdge

Array = npt.NDArray[np.float64]

GRID_POINTS, NEAR_POINTS, ZOOMS = 2001, 33, 40  # of the search for values that are not finite
SINGULAR = 1e9  # times the median: a curve that grows so far at a point has no limit there
NOTHING = elementwise.SYMBOLIC["0"]


@dataclass(frozen=True, slots=True)
class Line:
    """slope * x + start"""

    slope: float
    start: float


def symbolic(text: str, source: int, destination: int, *, what: str) -> SymbolicEdge:
    """The edge with the value of the expression. `what`: the option with the text. Raises OptionError."""
    value = expression.constant(text, what=what)
    function, inner, outer = NOTHING, Line(1.0, 0.0), Line(0.0, value or 0.0)
    if value is None:
        body = ast.parse(text.strip(), mode="eval").body
        line = _line(body)
        outside, core = _outer(body)
        called = _call(core)
        if line is not None:
            function, outer = elementwise.SYMBOLIC["x"], line
        elif called is not None:
            function, inner, outer = elementwise.SYMBOLIC[called[0]], called[1], outside
        else:
            name = f"f_{hashlib.sha256(text.strip().encode()).hexdigest()[:8]}"  # the same for the same text
            function, outer = expression.function(name, text, what=what), Line(1.0, 0.0)
    edge = SymbolicEdge(source, destination, function, inner.slope, inner.start, outer.slope, outer.start, 1.0)
    if not all(map(math.isfinite, (edge.a, edge.b, edge.c, edge.d))):
        raise OptionError(
            f"{what} has a number that is not finite", code="expression-invalid", hint="use smaller numbers"
        )
    return edge


def constant(value: float, source: int, destination: int) -> SymbolicEdge:
    """The edge with one value, for each finite source."""
    return SymbolicEdge(source, destination, NOTHING, 1.0, 0.0, 0.0, value, 1.0)


def clamped(edge: SymbolicEdge, low: float, high: float) -> SymbolicEdge:
    """The symbolic edge limited to [low, high]."""
    scale, start = edge.mask * edge.c, edge.mask * edge.d
    # For people, (|f - low| - |f - high| + low + high) / 2 for its value f; "" if f has no text, or a long one.
    inner = _text(edge.function, f"({edge.a!r}*x+{edge.b!r})")
    value = f"({scale!r}*{inner}+{start!r})"
    text = f"0.5*(abs({value}-({low!r}))-abs({value}-({high!r})))+{(low + high) / 2!r}"
    text = text if inner and len(text) <= expression.MAX_TEXT_CHARACTERS else ""
    function = elementwise.limited(edge.function, edge.a, edge.b, scale, start, low, high, text)
    return SymbolicEdge(edge.source, edge.destination, function, 1.0, 0.0, 1.0, 0.0, 1.0)


def _text(function: Unary, inner: str) -> str:
    """The function of an inner expression as text, or ""."""
    if function.name.isidentifier() and function.name in expression.FUNCTIONS:
        return f"{function.name}({inner})"
    if function.expression:
        tree = ast.parse(function.expression, mode="eval")
        return f"({ast.unparse(_Inner(inner).visit(tree))})"
    powers = {f"x^{n}": f"{inner}**{n}" for n in range(2, 6)} | {f"1/x^{n}": f"{inner}**-{n}" for n in range(2, 6)}
    others = {"x": inner, "1/x": f"{inner}**-1", "0": f"(0*{inner})", "1/sqrt(x)": f"sqrt({inner})**-1"}
    others |= {"x^0.5": f"sqrt({inner})", "1/x^0.5": f"sqrt({inner})**-1", "x^1.5": f"sqrt({inner})**3"}
    return (powers | others).get(function.name, "")


class _Inner(ast.NodeTransformer):
    """Replaces x in an expression."""

    def __init__(self, text: str) -> None:
        self._tree = ast.parse(text, mode="eval").body

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """x becomes the inner expression."""
        return self._tree if node.id == "x" else node


def _line(node: ast.expr) -> Line | None:
    """The expression as a line in x, if it has that form."""
    if isinstance(node, ast.Name) and node.id == "x":
        return Line(1.0, 0.0)
    value = expression.constant(node)
    if value is not None:
        return Line(0.0, value)
    return _through(node, _line)


def _through(node: ast.expr, read: Callable[[ast.expr], Line | None]) -> Line | None:
    """The line that the signs, sums and factors of a node make of a line. `read`: the line of a part."""
    if isinstance(node, ast.UnaryOp):
        inner = read(node.operand)
        sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
        return None if inner is None else Line(sign * inner.slope, sign * inner.start)
    if not isinstance(node, ast.BinOp) or isinstance(node.op, ast.Pow):
        return None
    left, right = read(node.left), read(node.right)
    return None if left is None or right is None else _combined(left, node.op, right)


def _combined(left: Line, operator: ast.operator, right: Line) -> Line | None:
    if isinstance(operator, ast.Add | ast.Sub):
        sign = 1.0 if isinstance(operator, ast.Add) else -1.0
        return Line(left.slope + sign * right.slope, left.start + sign * right.start)
    if isinstance(operator, ast.Mult) and 0.0 in (left.slope, right.slope):
        factor, line = (left.start, right) if left.slope == 0 else (right.start, left)
        return Line(factor * line.slope, factor * line.start)
    if isinstance(operator, ast.Div) and right.slope == 0 and right.start != 0:
        return Line(left.slope / right.start, left.start / right.start)
    return None


def _outer(node: ast.expr) -> tuple[Line, ast.expr]:
    """The line outside a single part with x, and that part."""
    parts: list[ast.expr] = []

    def read(part: ast.expr) -> Line | None:
        value = expression.constant(part)
        if value is not None:
            return Line(0.0, value)
        through = None if _call(part) is not None else _through(part, read)
        if through is None:
            parts.append(part)
            return Line(1.0, 0.0)
        return through

    line = read(node)
    if line is None or len(parts) != 1 or line.slope == 0:
        return Line(1.0, 0.0), node
    return line, parts[0]


def _call(node: ast.expr) -> tuple[str, Line] | None:
    """A function of the table of a line in x: its name and the line."""
    name, argument = "", node
    if isinstance(node, ast.Call) and len(node.args) == 1:
        name, argument = ast.unparse(node.func), node.args[0]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        name, argument = _power(expression.constant(node.right)), node.left
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and expression.constant(node.left) == 1:
        name, argument = "1/x", node.right
    line = _line(argument) if name in elementwise.SYMBOLIC else None
    return None if line is None or line.slope == 0 else (name, line)


def _power(exponent: float | None) -> str:
    """The name of a power in the table, or ""."""
    if exponent is None or exponent != int(exponent):
        return {0.5: "sqrt", -0.5: "1/sqrt(x)"}.get(exponent or 0.0, "")
    if exponent == -1:
        return "1/x"
    return f"x^{int(exponent)}" if exponent > 0 else f"1/x^{-int(exponent)}"


def check(values: Callable[[Array], Array], low: float, high: float, *, what: str) -> None:
    """Search [low, high] for values that are not finite, or that grow without a limit. Raises InvalidKan, which names
    the place."""
    x = np.linspace(low, high, GRID_POINTS)
    if low < 0 < high:
        x = np.sort(np.append(x, 0.0))  # where logarithms and reciprocals end
    y = values(x)
    _require_finite(x, y, (low, high), what)
    at, step = float(x[np.argmax(np.abs(y))]), (high - low) / (GRID_POINTS - 1)
    limit = SINGULAR * (1 + float(np.median(np.abs(y))))
    for _ in range(ZOOMS):
        near = np.clip(np.linspace(at - step, at + step, NEAR_POINTS), low, high)
        y = values(near)
        grown = np.where(np.abs(y) > limit, math.inf, y)
        _require_finite(near, grown, (low, high), what)
        at, step = float(near[np.argmax(np.abs(y))]), 2 * step / (NEAR_POINTS - 1)


def _require_finite(x: Array, y: Array, grid: tuple[float, float], what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        raise InvalidKan(
            f"{what} is {y[bad[0]]:g} at x = {x[bad[0]]:.6g}, expected finite values on the grid "
            f"{grid[0]:.6g} to {grid[1]:.6g}",
            code="expression-undefined",
            hint="write an expression with finite values for each input of the grid",
        )
