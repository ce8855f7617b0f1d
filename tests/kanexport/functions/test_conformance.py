"""Conformance of functions and wavelets. test_elementwise.py has the tables."""

import pytest

from kanexport.functions import expression, regularized
from kanexport.functions.elementwise import SYMBOLIC, Unary
from kanexport.functions.wavelets import WAVELETS
from tests.support.conformance import check_each, check_function
from tests.support.tiers import spread

TEXTS = ("x*sin(x)", "x**-3", "-x**2.5", "exp(-x**2)/(1 + abs(x))", "tanh(x)**7 - 2/x", "2**x")
TABLES: dict[str, list[Unary]] = {
    "avoiding": [
        regularized.avoiding(name, limit)
        for name in SYMBOLIC
        if name != regularized.BROKEN
        for limit in (2.5, 10.0, 1000.0)
    ],
    "wavelet": list(WAVELETS.values()),
    "written": [expression.function("mine", text) for text in TEXTS],
}
TOLERANCES = {"float32": (3e-5, 2e-6), "float64": (2e-13, 2e-14)}


@pytest.mark.parametrize("table", TABLES)
@spread("dtype,exact", [("float32", True), ("float32", False), ("float64", False), ("float64", True)], 2)
def test_a_function_gives_what_it_owes(table: str, dtype: str, exact: bool) -> None:
    rtol, atol = TOLERANCES[dtype]
    check_each(check_function, TABLES[table], dtype, exact=exact, rtol=rtol, atol=atol)
