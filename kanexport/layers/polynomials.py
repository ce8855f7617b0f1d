"""What readers of polynomial layers share: a layer of one basis, and the ways in which public copies of
such a layer differ from it without a trace in their tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from kanexport.bases import Basis, polynomial
from kanexport.bases.polynomial import Polynomial
from kanexport.bases.recurrence import Recurrence
from kanexport.form.ir import BasisTerm, Layer, Term
from kanexport.form.norms import LayerNorm
from kanexport.form.steps import Elementwise, RowRange, Step
from kanexport.functions import unary
from kanexport.functions.squash import SOFTSIGN, Bounded, Clip, Raw, Sigmoid, Squash, Tanh, TanhOf
from kanexport.functions.unary import Unary
from kanexport.layers.parts import Array, Part
from kanexport.options import EPSILONS, Options

# What copies of any layer that takes polynomials of tanh(x) do instead.
COPIES = {
    "raw": "copies that take the polynomials of x itself",
    "clip": "copies that cut x off at -1 and 1, without tanh",
    "clip-eps": "copies that cut x off at -1 + squash_eps and 1 - squash_eps, without tanh",
    "tanh-eps": "copies that keep tanh(x) squash_eps away from -1 and 1",
    "tanh-twice": "copies that take tanh twice",
    "arctan": "copies that take 2 / pi arctan(x)",
    "softsign": "copies that take x / (1 + |x|)",
    "sigmoid": "copies that take 2 sigmoid(x) - 1",
    "oid": "copies whose coefficients are [outputs, inputs, degree + 1]",
}
SHORT = ("1e-6", "1e-7", "1e-5", "1e-4", "1e-3")  # values of the option squash_eps
SQUASHES: dict[str, Callable[[Options], Squash]] = {
    "tanh": lambda options: Tanh(),
    "raw": lambda options: Raw(),
    "clip": lambda options: Clip(),
    "clip-eps": lambda options: Clip(short=options.number("squash_eps", SHORT[0], among=SHORT)),
    "tanh-eps": lambda options: Tanh(short=options.number("squash_eps", SHORT[0], among=SHORT)),
    "tanh-twice": lambda options: TanhOf(Tanh()),
    "arctan": lambda options: Bounded(unary.SYMBOLIC["arctan"], 2 / math.pi),
    "softsign": lambda options: Bounded(SOFTSIGN),
    "sigmoid": lambda options: Tanh(slope=0.5),
}


def forward(options: Options, own: str, rivals: Mapping[str, str] | None = None, *, same: tuple[str, ...] = ()) -> str:
    """The forward of a layer of polynomials of tanh(x): `own`, one of the `rivals`, or one of the COPIES. The COPIES
    in `same` are left out, because each is one of the rivals'. Raises OptionError."""
    copies = {name: words for name, words in COPIES.items() if name not in same}
    return options.forward(own, {**(rivals or {}), **copies})


def coefficients(part: Part, name: str, whose: str) -> Array:
    """[I, O, K]; a copy may have them as [O, I, K]. Raises InvalidKan."""
    coef = part.tensor(name, None, None, None)
    return coef.transpose(1, 0, 2) if whose == "oid" else coef


def squashed(basis: Polynomial, whose: str, options: Options) -> Polynomial:
    """The polynomials of the squash that the copy uses. Raises OptionError."""
    return polynomial.of(basis, SQUASHES[whose](options)) if whose in COPIES and whose in SQUASHES else basis


@dataclass(frozen=True, slots=True)
class Of:
    """The argument of a layer's functions: steps of the whole row `first`, then a squash of each source."""

    squash: Squash
    first: tuple[Step, ...] = ()

    # The squash by name, a key of SQUASHES. A layernorm has no weights; row-range scales by the extremes of the row.
    NAMES: ClassVar[dict[str, str]] = {
        "tanh": "tanh",
        "x": "raw",
        "clip": "clip",
        "sigmoid": "",
        "clip-eps": "clip-eps",
        "tanh-eps": "tanh-eps",
        "arctan": "arctan",
        "arctan-1": "",
        "softsign": "softsign",
        "sigmoid-2": "sigmoid",
        "tanh-twice": "tanh-twice",
        "row-range": "raw",
        "layernorm": "raw",
        "layernorm-tanh": "tanh",
    }

    @classmethod
    def make(cls, name: str, sources: int, options: Options) -> Of:
        """The argument with one of NAMES. Raises OptionError."""
        own: dict[str, Squash] = {"sigmoid": Sigmoid(), "arctan-1": Bounded(unary.SYMBOLIC["arctan"])}
        squash = own[name] if name in own else SQUASHES[cls.NAMES[name]](options)
        if name == "row-range":
            return cls(squash, (RowRange(),))
        if name.startswith("layernorm"):
            epsilon = options.number("layernorm_eps", EPSILONS[0], among=EPSILONS)
            return cls(squash, (LayerNorm(np.ones(sources), np.zeros(sources), epsilon),))
        return cls(squash)

    def applied(self, basis: Basis) -> Basis:
        """The polynomials of the squashed sources, which the steps of the row precede."""
        if isinstance(basis, Polynomial):
            return polynomial.of(basis, self.squash)
        assert isinstance(basis, Recurrence)
        return replace(basis, squash=self.squash)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The whole argument as steps, for functions that have no squash of their own."""
        if isinstance(self.squash, Raw):
            return self.first
        return (*self.first, Elementwise(Unary(self.squash.name, self.squash.evaluate, self.squash.emit)))


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
