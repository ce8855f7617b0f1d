"""Parsers of printed formulas and of LaTeX that evaluate them with numpy, independent of kanserve's code."""

import ast
import operator
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

BINARY = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: np.mod, ast.Pow: operator.pow,
}  # fmt: skip
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


LATEX_FUNCTIONS: dict[str, Any] = {
    name: getattr(np, name) for name in ("exp", "sin", "cos", "tan", "tanh", "cosh", "arcsin", "arccos", "arctan")
}
LATEX_FUNCTIONS |= {"ln": np.log, "artanh": np.arctanh, "sgn": np.sign, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
LATEX_COMPARE = {"<": np.less, r"\le": np.less_equal, ">": np.greater, r"\ge": np.greater_equal}
TOKEN = re.compile(r"\\\\|\\[A-Za-z]+|\d+(?:\.\d+)?|\.\d+|[A-Za-z]|\S")
SCIENTIFIC = re.compile(r"(?:(\d+(?:\.\d+)?) \\cdot )?10\^\{(-?\d+)\}")
WORDS = {
    r"\textbackslash": "\\", r"\textasciitilde": "~", r"\textasciicircum": "^", r"\textless": "<",
    r"\textgreater": ">", r"\textbar": "|", r"\textquotedbl": '"',
}  # fmt: skip
LIGATURES = {"--", "''", "``", ",,", "?`", "!`", "<<", ">>"}


def compute_latex(text: str, names: Mapping[str, Any]) -> Any:
    """The value of a formula in float64. `names`: variables and functions as they are written, such as x_{0} or the
    content of \\text{}."""
    reader = _Reader(text, names)
    with np.errstate(all="ignore"):
        value = reader.sum()
    assert reader.at_end(), reader.rest()
    return value


def decoded(text: str) -> str:
    """Return the visible text of \\text{} content. The parser must read it to the end."""
    result, end = _text(text + "}", 0)
    assert end == len(text) + 1, text[end:]
    return result


def _text(source: str, at: int) -> tuple[str, int]:
    """The content of a group that begins at `at`, and its end. Raw special characters are an error."""
    seen, glued = "", ""
    while source[at] != "}":
        word = re.match(r"(\\[A-Za-z]+)\{\}", source[at:])
        if word:
            sign, at, glued = WORDS[word[1]], at + word.end(), ""
        elif source[at] == "\\":
            assert source[at + 1] in "{}$&#_% ", source[at:]
            sign, at, glued = source[at + 1], at + 2, ""
        elif source.startswith("{}", at):
            sign, at, glued = "", at + 2, ""
        else:
            sign, at = source[at], at + 1
            assert sign not in '{$&#_%~^<>|"', f"{sign} is LaTeX's own"
            assert not sign.isspace(), "LaTeX makes one of several spaces"
            assert glued + sign not in LIGATURES, f"{glued + sign} becomes another sign"
            glued = sign
        seen += sign
    return seen, at + 1


class _Reader:
    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        self._source, self._at, self._names = text, 0, names

    def peek(self) -> str:
        result = TOKEN.search(self._source, self._at)
        return result[0] if result else ""

    def take(self, expected: str = "") -> str:
        result = TOKEN.search(self._source, self._at)
        assert result, "the formula ends too early"
        assert not expected or result[0] == expected, f"{expected} expected at {self.rest()}"
        self._at = result.end()
        return result[0]

    def at_end(self) -> bool:
        return not self.peek()

    def rest(self) -> str:
        return self._source[self._at : self._at + 60]

    def sum(self) -> Any:
        negative = self.peek() == "-"
        if negative:
            self.take()
        value = -self.product() if negative else self.product()
        if self.peek() == r"\bmod":
            assert not negative
            self.take()
            return np.mod(value, self.power())
        while self.peek() in ("+", "-"):
            sign = self.take()
            value = value + self.product() if sign == "+" else value - self.product()
        return value

    def product(self) -> Any:
        value = self.power()
        while self.peek() == r"\cdot":
            self.take()
            value = value * self.power()
        return value

    def power(self) -> Any:
        value, called = self.base()
        if self.peek() == "^":
            assert not called, f"a power of an argument, or of a value? {self.rest()}"
            self.take()
            value = np.power(value, self.group())
            assert self.peek() != "^"
        return value

    def group(self) -> Any:
        self.take("{")
        value = self.sum()
        self.take("}")
        return value

    def bracket(self, left: str, right: str) -> Any:
        self.take(r"\left")
        self.take(left)
        value = self.cases() if self.peek() == r"\begin" else self.sum()
        self.take(r"\right")
        self.take(right)
        return value

    def base(self) -> tuple[Any, bool]:
        """A value, and whether it is a function's."""
        token = self.peek()
        if token[0].isdigit() or token[0] == ".":
            return self.number(), False
        if token == r"\left":
            absolute = self._source[self._at :].lstrip().startswith(r"\left|")
            return (np.abs(self.bracket("|", "|")), False) if absolute else (self.bracket("(", ")"), False)
        if token == r"\begin":
            return self.cases(), True
        if token in (r"\frac", r"\sqrt"):
            self.take()
            first = self.group()
            return (first / self.group() if token == r"\frac" else np.sqrt(first)), True
        return self.named()

    def number(self) -> Any:
        """A number with its power of ten, which is one value and not a product."""
        result = SCIENTIFIC.match(self._source[self._at :].lstrip())
        mantissa = self.take()
        if not result:
            return np.float64(mantissa)
        if result[1]:
            self.take(r"\cdot")
            self.take("10")
        self.take("^")
        self.word()
        return np.float64(f"{result[1] or 1}e{result[2]}")

    def named(self) -> tuple[Any, bool]:
        token = self.take()
        if token == r"\pi":
            return np.pi, False
        if token == "e":
            return np.e, False
        if token == r"\text":
            self.take("{")
            name, self._at = _text(self._source, self._at)
            return self._names[name], False
        if token == r"\operatorname":
            name = self.word()
            return LATEX_FUNCTIONS[name](self.bracket("(", ")")), True
        if token.startswith("\\") and token != r"\varphi":
            return LATEX_FUNCTIONS[token[1:]](self.bracket("(", ")")), True
        self.take("_")
        name = f"{token}_{{{self.word()}}}"
        if token == r"\varphi":
            return self._names[name](self.bracket("(", ")")), True
        return self._names[name], False

    def word(self) -> str:
        self.take("{")
        start = self._at
        self._at = self._source.index("}", start) + 1
        return self._source[start : self._at - 1]

    def cases(self) -> Any:
        """The first that holds."""
        self.take(r"\begin")
        assert self.word() == "cases"
        result: list[tuple[Any, Any]] = []
        while True:
            value = self.sum()
            self.take("&")
            self.take(r"\text")
            word = self.word()
            if word == "otherwise":
                break
            assert word == "if "
            low, compare, high = self.sum(), LATEX_COMPARE[self.take()], self.sum()
            result.append((compare(low, high), value))
            self.take("\\\\")
        self.take(r"\end")
        assert self.word() == "cases"
        for holds, other in reversed(result):
            value = np.where(holds, other, value)
        return value
