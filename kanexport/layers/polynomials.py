"""What readers of polynomial layers share: a layer of one basis, and the ways in which public copies of
such a layer differ from it without a trace in their tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kanexport.bases import Basis, polynomial
from kanexport.bases.polynomial import Polynomial
from kanexport.form.ir import BasisTerm, Layer, Term
from kanexport.form.steps import Step
from kanexport.functions.squash import Clip, Raw, Squash, Tanh, TanhOf
from kanexport.layers.parts import Array, Part
from kanexport.options import Options

# What copies of any layer that takes polynomials of tanh(x) do instead.
COPIES = {
    "raw": "copies that take the polynomials of x itself",
    "clip": "copies that cut x off at -1 and 1, without tanh",
    "tanh-twice": "copies that take tanh twice",
    "oid": "copies whose coefficients are [outputs, inputs, degree + 1]",
}
SQUASHES: dict[str, Squash] = {"raw": Raw(), "clip": Clip(), "tanh-twice": TanhOf(Tanh())}


def forward(options: Options, own: str, rivals: Mapping[str, str] | None = None, *, same: str = "") -> str:
    """Whose forward a layer of polynomials of tanh(x) has: `own`, one of the `rivals`, or one of the
    COPIES but `same`, which is one of the rivals'. Raises OptionError."""
    copies = {name: words for name, words in COPIES.items() if name != same}
    return options.forward(own, {**(rivals or {}), **copies})


def coefficients(part: Part, name: str, whose: str) -> Array:
    """[I, O, K]; a copy may have them as [O, I, K]. Raises InvalidKan."""
    coef = part.tensor(name, None, None, None)
    return coef.transpose(1, 0, 2) if whose == "oid" else coef


def squashed(basis: Polynomial, whose: str) -> Polynomial:
    """The polynomials, of what the copy takes them of."""
    return polynomial.of(basis, SQUASHES[whose]) if whose in SQUASHES else basis


def layer(
    basis: Basis,
    coef: Array,
    *more: Term,
    bias: Array | None = None,
    before: tuple[Step, ...] = (),
    after: tuple[Step, ...] = (),
) -> Layer:
    """A layer of one basis and its coefficients [I, O, K], and of `more` terms. Raises InvalidKan."""
    n, m, _ = coef.shape
    return Layer(
        (BasisTerm(basis, coef, before), *more),
        mask=np.ones((n, m)),
        bias=np.zeros(m) if bias is None else bias,
        nan_spreads=np.zeros((n, m), dtype=bool),
        after=after,
    )
