"""Printer of formulas in Python's syntax: numbers, signs, sums, products and functions.

Each text knows its operator precedence. A function's expression is parsed; nothing is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from kanexport.shared.cli.console import CodedError

# How tightly a text binds, from the loosest.
CONDITION, SUM, PRODUCT, SIGN, POWER, ATOM = range(6)
LIMIT = 100_000  # characters of one formula
EXPRESSION_LIMIT = 2_000  # of one function's text
EXACT = 17  # significant digits that distinguish all float64 numbers
FUNCTIONS = frozenset(
    {"sqrt", "exp", "log", "abs", "sin", "cos", "tan", "tanh", "cosh", "sigmoid", "gaussian", "sgn"}
    | {"arcsin", "arccos", "arctan", "arctanh"}
)
CONSTANTS = frozenset({"pi", "e"})
OPERATORS: dict[type, tuple[str, int, int, int]] = {  # text, its rank, and what its sides must have
    ast.Add: (" + ", SUM, SUM, SUM),
    ast.Sub: (" - ", SUM, SUM, PRODUCT),
    ast.Mult: ("*", PRODUCT, PRODUCT, POWER),
    ast.Div: ("/", PRODUCT, PRODUCT, POWER),
    ast.Mod: (" % ", PRODUCT, PRODUCT, POWER),
    ast.Pow: ("**", POWER, ATOM, ATOM),
}
COMPARISONS: dict[type, str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


class FormulaError(CodedError):
    """Missing closed form, or one that is too long; the text names the place and the reason."""


class TooLong(FormulaError):
    """Formula that is too long."""

    def __init__(self) -> None:
        super().__init__(
            f"the formula has more than {LIMIT} characters",
            code="formula-too-long",
            hint="print one formula per layer with --by-layer, or fewer digits with --digits",
        )


def not_supported(what: str) -> FormulaError:
    """The error for a part of a function's text that formulas do not support."""
    return FormulaError(
        f"formulas do not support {what[:80]!r}",
        code="formula-not-supported",
        hint="use the operators and functions that --function accepts, and export the model again",
    )


@dataclass(frozen=True, slots=True)
class Text:
    """Part of a formula with its operator precedence: "a + b" needs parentheses before "* c"."""

    text: str
    rank: int

    def __post_init__(self) -> None:
        if len(self.text) > LIMIT:
            raise TooLong

    def within(self, rank: int) -> str:
        """Text in parentheses if it binds more loosely than `rank`."""
        return self.text if self.rank >= rank else f"({self.text})"


def number(value: float, digits: int) -> Text:
    """Number with `digits` significant digits; from `EXACT` on, the shortest text that gives the same number."""
    text = repr(value) if digits >= EXACT else f"{value:.{digits}g}"
    text = text.removesuffix(".0")
    return Text(text, SIGN if text.startswith("-") else ATOM)


@dataclass(frozen=True, slots=True)
class Linear:
    """Linear expression: constant + the sum of factor * text."""

    terms: tuple[tuple[float, Text], ...] = ()
    constant: float = 0.0

    @classmethod
    def from_text(cls, text: Text) -> Linear:
        """Linear expression of a single text."""
        return cls(((1.0, text),))

    def affine(self, scale: float, shift: float) -> Linear:
        """The expression self * scale + shift."""
        return Linear(tuple((scale * factor, text) for factor, text in self.terms), self.constant * scale + shift)

    def render(self, digits: int) -> Text:
        """Text of the expression, the constant last."""
        (negative, first), *rest = self._magnitudes(digits)
        if not rest and not negative:
            return first
        # A sign binds more tightly than %; before a product that makes no difference.
        tight = first.rank != PRODUCT or " % " in first.text
        start = f"-{first.within(POWER if tight else PRODUCT)}" if negative else first.within(SUM)
        return Text(start + "".join(f" {'-' if minus else '+'} {part.within(PRODUCT)}" for minus, part in rest), SUM)

    def _magnitudes(self, digits: int) -> list[tuple[bool, Text]]:
        """Every summand, at least one: whether it is negative, and its magnitude as text."""
        summands = []
        for factor, text in self.terms:
            if factor != 0:
                size = number(abs(factor), digits)
                scaled = text if size.text == "1" else Text(f"{size.text}*{text.within(POWER)}", PRODUCT)
                summands.append((factor < 0, scaled))
        if self.constant != 0 or not summands:
            summands.append((self.constant < 0, number(abs(self.constant), digits)))
        return summands


def total(parts: Iterable[Linear]) -> Linear:
    """The sum, with equal texts combined."""
    factors: dict[Text, float] = {}
    constant = 0.0
    for part in parts:
        constant += part.constant
        for factor, text in part.terms:
            factors[text] = factors.get(text, 0.0) + factor
    return Linear(tuple((factor, text) for text, factor in factors.items()), constant)


def product(parts: Iterable[Linear], digits: int) -> Linear:
    """The product, with the factors of single texts combined at the front."""
    front, texts = 1.0, []
    for part in parts:
        live = [(factor, text) for factor, text in part.terms if factor != 0]
        if not live:
            front *= part.constant
        elif len(live) == 1 and part.constant == 0:
            front *= live[0][0]
            texts.append(live[0][1])
        else:
            texts.append(part.render(digits))
    if not texts:
        return Linear((), front)
    if len(texts) == 1:
        return Linear(((front, texts[0]),))
    first, *rest = texts
    text = Text("*".join([first.within(PRODUCT), *(other.within(POWER) for other in rest)]), PRODUCT)
    return Linear(((front, text),))


def applied(expression: str, inner: Text, digits: int) -> Text:
    """The text of a function of x with `inner` in the place of x. Raises FormulaError."""
    if len(expression) > EXPRESSION_LIMIT:
        raise FormulaError(
            f"the text of a function has {len(expression)} characters, expected at most {EXPRESSION_LIMIT}",
            code="formula-function-too-long",
            hint="simplify the function, and export the model again",
        )
    try:
        return _text(ast.parse(expression, mode="eval").body, inner, digits)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, FormulaError):
            raise
        raise FormulaError(
            f"{expression[:80]!r} is not a valid expression",
            code="formula-function-invalid",
            hint="correct the function, and export the model again",
        ) from error


def _text(node: ast.AST, x: Text, digits: int) -> Text:
    match node:
        case ast.Name(id="x"):
            return x
        case ast.Name(id=name) if name in CONSTANTS:
            return Text(name, ATOM)
        case ast.Constant(value=bool()):
            raise not_supported(ast.unparse(node))
        case ast.Constant(value=int() | float() as value):
            return number(value, digits) if isinstance(value, float) else Text(str(value), ATOM)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Text(f"-{_text(operand, x, digits).within(POWER)}", SIGN)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _text(operand, x, digits)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            sign, rank, left_rank, right_rank = OPERATORS[type(op)]
            sides = _text(left, x, digits).within(left_rank), _text(right, x, digits).within(right_rank)
            return Text(sides[0] + sign + sides[1], rank)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            inner = _text(argument, x, digits)
            return Text(f"exp(-{inner.within(ATOM)}**2)" if name == "gaussian" else f"{name}({inner.text})", ATOM)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            sides = _text(left, x, digits).within(SUM), _text(right, x, digits).within(SUM)
            return Text(f"{sides[0]} {COMPARISONS[type(op)]} {sides[1]}", CONDITION)
        case ast.IfExp(test=ast.Compare() as test, body=body, orelse=other):
            first, condition, second = (_text(part, x, digits) for part in (body, test, other))
            return Text(f"{first.within(SUM)} if {condition.text} else {second.within(SUM)}", CONDITION)
    raise not_supported(ast.unparse(node))
