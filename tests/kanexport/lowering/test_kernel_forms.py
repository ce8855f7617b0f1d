"""Tests of `lowering/kernel_forms.py`; tests/kernel runs the graphs."""

import dataclasses

import numpy as np
import pytest

from kanexport.bases import Basis
from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.functions.wavelets import WAVELETS
from kanexport.ir.model import BasisTerm, EdgeTerm, Layer, Term
from kanexport.ir.norms import LayerNorm
from kanexport.ir.steps import Step
from kanexport.lowering import kernel_forms
from kanexport.lowering.kernel_forms import Bases, Edges, Splines
from kanexport.shared import custom_ops
from tests.support import basis_examples

I, O = 3, 2  # noqa: E741 - as everywhere here: sources, destinations
KNOTS = np.arange(20.0)[None].repeat(I, axis=0)


def term(basis: Basis, pre_steps: tuple[Step, ...] = ()) -> BasisTerm:
    return BasisTerm(basis, np.ones((I, O, basis.functions)), pre_steps)


def layer(*terms: Term) -> Layer:
    return Layer(terms, np.ones((I, O)), np.zeros(O), np.ones((I, O), bool))


def norm(epsilon: float = 1e-5) -> LayerNorm:
    return LayerNorm(np.ones(I), np.zeros(I), epsilon)


SILU, GELU = (term(Activation(ACTIVATIONS[name])) for name in ("silu", "gelu"))
CUBIC, SEPTIC = (term(BSpline(KNOTS, degree)) for degree in (3, 7))
GAUSSIAN = term(basis_examples.examples("gaussian")[0])
WAVELET = EdgeTerm(WAVELETS["morlet"], *np.ones((3, I, O, 1)))


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ((CUBIC, SILU), [Splines]),
        ((CUBIC, GELU), [Splines, Bases]),
        ((SEPTIC, SILU), [Bases]),
        ((GAUSSIAN, WAVELET, SILU), [Bases, Edges]),
        ((GAUSSIAN,) * 5, [Bases, Bases]),
        ((term(GAUSSIAN.basis, pre_steps=(norm(),)), SILU), [Bases]),
        ((term(GAUSSIAN.basis, pre_steps=(norm(),)), term(GAUSSIAN.basis, pre_steps=(norm(1e-3),))), [Bases, Bases]),
    ],
)
def test_each_term_has_an_operator(terms: tuple[Term, ...], expected: list[type]) -> None:
    parts, rest = kernel_forms.plan(layer(*terms), np.float32)
    assert [type(part) for part in parts] == expected
    assert not rest


def test_float64_and_steps_before_wavelets_stay_portable() -> None:
    assert kernel_forms.plan(layer(CUBIC), np.float64) == ([], [CUBIC])
    after = EdgeTerm(WAVELET.function, WAVELET.centre, WAVELET.rate, WAVELET.coef, (norm(),))
    assert kernel_forms.plan(layer(after), np.float32) == ([], [after])


def test_a_norm_before_a_layer_is_a_step_of_its_terms_if_one_operator_computes_them() -> None:
    before = dataclasses.replace(layer(GAUSSIAN, SILU), pre_steps=(norm(),))
    moved = kernel_forms.absorbed(before, np.float32, custom_ops.OPERATORS)
    assert not moved.pre_steps
    assert all(isinstance(each.pre_steps[0], LayerNorm) for each in moved.terms)
    splines = dataclasses.replace(layer(CUBIC), pre_steps=(norm(),))
    assert kernel_forms.absorbed(splines, np.float32, custom_ops.OPERATORS) is splines


def test_notes_say_which_layers_an_operator_computes() -> None:
    layers = [layer(CUBIC), layer(GAUSSIAN)]
    assert not kernel_forms.notes(layers, np.float32, requested=False)
    (note,) = kernel_forms.notes(layers, np.float32, requested=True)
    assert "layers 0, 1" in note
    (note,) = kernel_forms.notes([layer()], np.float32, requested=True)
    assert "was not written" in note
