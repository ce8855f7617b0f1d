"""Statements of one function: what takes memory, and which arrays share it."""

import numpy as np

from kanexport.ccode.function import FunctionWriter
from kanexport.ccode.nodes import FLOAT, Given, Node
from kanexport.ccode.operators import mapped, number, product
from kanexport.ccode.tables import Tables

X = Given((1, 8), FLOAT, "x")


def body(result: Node) -> tuple[list[str], int, set[str]]:
    helpers: set[str] = set()
    lines, stack = FunctionWriter(Tables("net"), helpers, "net", lambda node: "").body(result, "y")
    return lines, stack, helpers


def test_functions_of_elements_are_one_expression() -> None:
    value = mapped("({0} * {1})", 1, mapped("@sigmoid({0})", 20, X), number(2.0))
    lines, stack, helpers = body(value)
    assert [line.strip() for line in lines] == [
        "for (int i = 0; i < 8; i++) {",
        "y[i] = net_sigmoid(x[i]) * 2.0f;",
        "}",
    ]
    assert (stack, helpers) == (0, {"sigmoid"})


def test_of_values_that_are_read_twice_only_costly_ones_are_stored() -> None:
    costly = mapped("expf({0})", 20, X)
    lines, stack, _ = body(mapped("({0} + {1})", 1, costly, costly))
    assert "".join(lines).count("expf") == 1
    assert stack == 8 * 4
    cheap = mapped("(-{0})", 1, X)
    lines, stack, _ = body(mapped("({0} * {1})", 1, cheap, cheap))
    assert ("".join(lines).count("-x[i]"), stack) == (2, 0)


def test_arrays_whose_lifetimes_do_not_overlap_share_memory() -> None:
    value: Node = X
    rng = np.random.default_rng(0)
    for _ in range(5):
        weights = mapped("({0} + {1})", 1, *(number(float(part)) for part in rng.normal(size=2)))
        square = mapped("({0} * {1})", 1, Given((8, 8), FLOAT, "w"), weights)
        value = product(value, square)
    lines, stack, _ = body(value)
    assert stack == 2 * 8 * 4
    assert sum("float f" in line for line in lines) == 2
