"""Tests of `shared/formula_printer.py`."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.shared import formula_printer
from kanexport.shared.formula_printer import EXACT, FormulaError, Linear, Text, applied, number


@given(st.floats(-1e300, 1e300), st.integers(1, EXACT))
def test_numbers_keep_their_digits(value: float, digits: int) -> None:
    assert float(number(value, digits).text) == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits), abs=5e-324)
    assert float(number(value, EXACT).text) == value


@pytest.mark.parametrize(
    "expression", ["x" + "[0]", "True*x", "x if x else 1", "f(x)", "x < 1 < 2", "'a'", "x.y", "1j"]
)
def test_only_what_is_known_is_printed(expression: str) -> None:
    with pytest.raises(FormulaError):
        applied(expression, Text("x0", formula_printer.ATOM), 6)


def test_constants_alone() -> None:
    assert Linear().render(6).text == "0"
    assert dataclasses.replace(Linear(), constant=-1.5).render(6).text == "-1.5"
