"""Printer of formulas as LaTeX, from the Python syntax that `formula` writes. Needs amsmath.

A text is parsed and printed again. Precedence differs from Python's: a fraction and a root need no parentheses
around their contents, and a function's value needs some before a power.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kanexport.shared.formula_printer import FormulaError, not_supported

# How tightly a text binds, from the loosest.
CONDITION, SUM, SIGN, PRODUCT, FRACTION, CALL, ATOM = range(7)
NUMBERED = re.compile(r"([xyh])(\d+)(?:_(\d+))?")
EDGE = re.compile(r"phi_(\d+)_(\d+)_(\d+)")
PLAIN = {name: rf"\{name}" for name in ("exp", "sin", "cos", "tan", "tanh", "cosh", "arcsin", "arccos", "arctan")}
CALLS: Mapping[str, str] = {
    **PLAIN,
    "log": r"\ln",
    "arctanh": r"\operatorname{artanh}",
    "sigmoid": r"\operatorname{sigmoid}",
    "sgn": r"\operatorname{sgn}",
}
CONSTANTS: Mapping[str, str] = {"pi": r"\pi", "e": "e"}
COMPARISONS: Mapping[type, str] = {ast.Lt: "<", ast.LtE: r"\le", ast.Gt: ">", ast.GtE: r"\ge"}
# In the text of a name: what LaTeX would read as its own.
SPECIAL: Mapping[str, str] = {
    **{sign: rf"\{sign}" for sign in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
JOINED = frozenset("-'`,?!")  # signs that LaTeX joins if two are adjacent


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a formula with its operator precedence."""

    text: str
    rank: int

    def within(self, rank: int) -> str:
        """Text in parentheses if it binds more loosely than `rank`."""
        return self.text if self.rank >= rank else rf"\left({self.text}\right)"


def escaped(name: str) -> str:
    """Name as literal text in LaTeX's text mode. Characters that cannot be printed become spaces."""
    out: list[str] = []
    for sign, before in zip(name, ["", *name], strict=False):
        if sign in JOINED and before in JOINED:
            out.append("{}")
        printed = sign if sign.isprintable() and not sign.isspace() else " "
        # LaTeX collapses several spaces into one, and drops spaces at an end.
        out.append(SPECIAL.get(printed, r"\ " if printed == " " else printed))
    return "".join(out)


def symbol(token: str, name: str = "") -> str:
    """LaTeX symbol of a variable: its display `name`, or its token in `formula`, such as x0, y0 or h1_0."""
    if name and name != token:
        return rf"\text{{{escaped(name)}}}"
    numbered = NUMBERED.fullmatch(token)
    if not numbered:
        return rf"\text{{{escaped(token)}}}"
    letter, first, second = numbered.groups()
    return f"{letter}_{{{first},{second}}}" if second else f"{letter}_{{{first}}}"


def symbols(tokens: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """LaTeX symbols of variables by token. `names`: the names of the variables, if there are any."""
    return {token: symbol(token, names[at] if names else "") for at, token in enumerate(tokens)}


def written(expression: str, known: Mapping[str, str]) -> str:
    """A formula of `formula.formulas` as LaTeX. `known`: symbols of variables by token; other variables are as in
    `symbol`. Raises FormulaError for a formula that is nested too deep."""
    try:
        return _part(ast.parse(expression, mode="eval").body, known).text
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise FormulaError(
            "the formula is nested too deep for LaTeX",
            code="formula-too-deep",
            hint="print the formula as text, or by layer with --by-layer",
        ) from error


def _part(node: ast.AST, known: Mapping[str, str]) -> Part:
    match node:
        case ast.Name(id=name):
            return Part(known.get(name) or CONSTANTS.get(name) or symbol(name), ATOM)
        case ast.Constant(value=int() | float() as value):
            mantissa, _, exponent = repr(value).removesuffix(".0").partition("e")
            if not exponent:
                return Part(mantissa, ATOM)
            power = f"10^{{{int(exponent)}}}"
            return Part(power, CALL) if mantissa == "1" else Part(rf"{mantissa} \cdot {power}", PRODUCT)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Part(f"-{_part(operand, known).within(PRODUCT)}", SIGN)
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(_part(left, known), op, _part(right, known))
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return _call(name, _part(argument, known))
        case ast.IfExp():
            return _cases(node, known)
    raise not_supported(ast.unparse(node))


def _cases(node: ast.AST, known: Mapping[str, str]) -> Part:
    """Case distinction with one line for each condition, and the last for the rest."""
    lines = []
    while isinstance(node, ast.IfExp):
        if not isinstance(node.test, ast.Compare):
            raise not_supported(ast.unparse(node.test))
        low, high = (_part(side, known).within(SUM) for side in (node.test.left, node.test.comparators[0]))
        test = f"{low} {COMPARISONS[type(node.test.ops[0])]} {high}"
        lines.append(rf"{_part(node.body, known).text} & \text{{if }} {test}")
        node = node.orelse
    lines.append(rf"{_part(node, known).text} & \text{{otherwise}}")
    rows = r" \\ ".join(lines)
    return Part(rf"\begin{{cases}} {rows} \end{{cases}}", CONDITION)


def _binary(left: Part, op: ast.operator, right: Part) -> Part:
    match op:
        case ast.Add():
            return Part(f"{left.within(SUM)} + {right.within(PRODUCT)}", SUM)
        case ast.Sub():
            return Part(f"{left.within(SUM)} - {right.within(PRODUCT)}", SUM)
        case ast.Mult():
            # A sign before a product is a sign before its first factor.
            text = rf"{left.within(SIGN)} \cdot {right.within(FRACTION)}"
            return Part(text, SIGN if left.rank == SIGN else PRODUCT)
        case ast.Div():
            return Part(rf"\frac{{{left.text}}}{{{right.text}}}", FRACTION)
        case ast.Mod():
            return Part(rf"{left.within(CALL)} \bmod {right.within(CALL)}", CONDITION)
        case ast.Pow():
            return Part(f"{left.within(ATOM)}^{{{right.text}}}", CALL)
    raise not_supported(f"operator {type(op).__name__}")


def _call(name: str, argument: Part) -> Part:
    if name == "sqrt":
        return Part(rf"\sqrt{{{argument.text}}}", CALL)
    if name == "abs":
        return Part(rf"\left|{argument.text}\right|", ATOM)
    edge = EDGE.fullmatch(name)
    if edge:
        return Part(rf"\varphi_{{{','.join(edge.groups())}}}\left({argument.text}\right)", CALL)
    if name not in CALLS:
        raise not_supported(f"function {name}")
    return Part(rf"{CALLS[name]}\left({argument.text}\right)", CALL)
