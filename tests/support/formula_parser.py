"""Parser of printed formulas that evaluates them with numpy, independent of kanserve's code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: np.mod,
    ast.Pow: operator.pow,
}
COMPARE = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
FUNCTIONS = {name: getattr(np, name) for name in ("sqrt", "exp", "log", "abs", "sin", "cos", "tan", "tanh", "cosh")}
FUNCTIONS |= {name: getattr(np, name) for name in ("arcsin", "arccos", "arctan", "arctanh")}
FUNCTIONS |= {"sgn": np.sign, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}


def compute(text: str, names: Mapping[str, Any]) -> Any:
    """The value of a formula in float64. `names`: of its variables, and functions by name."""
    with np.errstate(all="ignore"):
        return _value(ast.parse(text, mode="eval").body, {"pi": np.pi, "e": np.e, **FUNCTIONS, **names})


def columns(text: str, x: np.ndarray, **functions: Any) -> np.ndarray:
    """The value of a formula of x0, x1, ... for rows [B, n]."""
    value = compute(text, {f"x{at}": x[:, at].astype(np.float64) for at in range(x.shape[1])} | functions)
    return np.broadcast_to(value, len(x))


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return np.float64(node.value)
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp):
        assert isinstance(node.op, ast.USub)
        return -_value(node.operand, names)
    if isinstance(node, ast.BinOp):
        return BINARY[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.Compare):
        return COMPARE[type(node.ops[0])](_value(node.left, names), _value(node.comparators[0], names))
    if isinstance(node, ast.IfExp):
        return np.where(*(_value(part, names) for part in (node.test, node.body, node.orelse)))
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return names[node.func.id](_value(node.args[0], names))
