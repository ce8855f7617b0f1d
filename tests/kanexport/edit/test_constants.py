"""Simple constants: canonical forms are the same functions, and simple numbers stay within the limit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.bases.activation import Activation
from kanexport.edit import constants, library
from kanexport.edit.circuit import At, Circuit, Judge
from kanexport.edit.curve_fit import Form
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.steps import Product
from tests.kanexport.edit.test_circuit import form

X = np.random.default_rng(3).uniform(0.5, 2, (150, 2))
NUMBERS = st.floats(0.2, 3)


def layer(sources: int, destinations: int, *steps: Product) -> Layer:
    shape = (sources, destinations)
    term = BasisTerm(Activation(elementwise.activation("silu")), np.ones((*shape, 1)))
    return Layer((term,), np.ones(shape), np.zeros(destinations), np.zeros(shape, dtype=bool), post_steps=steps)


SUM = Kan(2, (layer(2, 1), layer(1, 1)))
PRODUCT = Kan(2, (layer(2, 2, Product((2,))), layer(1, 1)))


@given(
    st.sampled_from([name for name in library.ALL if name != "0"]), st.sampled_from([1, -1]), *(NUMBERS for _ in "abcd")
)
def test_canonical_forms_are_the_same_functions(name: str, sign: int, a: float, b: float, c: float, d: float) -> None:
    bounded = library.ALL[name].domain in (library.Domain.UNIT, library.Domain.OPEN_UNIT, library.Domain.QUARTER)
    x = np.linspace(0.1, 0.6, 20)
    before = form(name, sign * a * (0.1 if bounded else 1), b * (0.1 if bounded else 1), c, d)
    after = constants.canonical(before)
    assert after.values(x) == pytest.approx(before.values(x), rel=1e-9, nan_ok=True)


def simplified(kan: Kan, forms: dict[At, Form], limit: float = 1e-2, allowed: float = 1e-4) -> Circuit:
    begun = Circuit.of(kan, X, forms)
    judge = Judge.of(begun.y)
    found = constants.simplified(begun, judge, lambda tested: judge.error(tested.y), limit, allowed)
    assert judge.error(found.y) <= limit
    return found


def test_the_scales_of_a_quotient() -> None:
    """a / b, with scales and shifts that cancel."""
    forms = {
        (0, 0, 0): form("log", 1.3, 0.0, 0.25, 3.0),
        (0, 1, 0): form("log", 0.7, 0.0, -0.25, 1.0),
        (1, 0, 0): form("exp", 4.0, -16 - math.log(1.3) + math.log(0.7), 1.0, 0.0),
    }
    found = simplified(SUM, forms).forms
    assert found == {(0, 0, 0): form("log"), (0, 1, 0): form("log", c=-1.0), (1, 0, 0): form("exp")}


def test_the_scales_of_a_product() -> None:
    """1 / (1 + a b), with other scales of the factors."""
    forms = {
        (0, 0, 0): form("x", c=-0.3),
        (0, 1, 0): form("0", d=0.0),
        (0, 0, 1): form("0", d=0.0),
        (0, 1, 1): form("x", c=2.0),
        (1, 0, 0): form("1/x", -0.5, 0.3, 0.3, 0.0),
    }
    found = simplified(PRODUCT, forms).forms
    assert found[1, 0, 0] == form("1/x", 1.0, 1.0, 1.0, 0.0)
    assert (found[0, 0, 0].c, found[0, 1, 1].c) == (1, 1)


def test_numbers_that_change_the_outputs_stay_and_a_factor_of_zero_is_a_constant() -> None:
    forms = {(0, 0, 0): form("x"), (0, 1, 0): form("x^2", c=1e-5), (1, 0, 0): form("exp")}
    assert simplified(SUM, forms).forms[0, 1, 0] == form("0", c=0.0)
    forms = {(0, 0, 0): form("x", c=1.004), (0, 1, 0): form("x^2", c=0.7183), (1, 0, 0): form("exp")}
    found = simplified(SUM, forms, limit=1e-9, allowed=1e-9).forms
    assert found[0, 0, 0].c == pytest.approx(1.004, rel=1e-6)
    assert found[0, 1, 0].c == pytest.approx(0.7183, rel=1e-6)
