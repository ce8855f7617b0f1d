"""OrthogPolyKANs: eight kinds of polynomials of tanh(x), told by the name of the coefficients.

Source: Boris-73-TA/OrthogPolyKANs, <Kind>KANLayer.forward, for n inputs, m outputs, degree D:

    y_j = sum_i sum_d C[i, j, d] P_d(tanh x_i)

The library's JacobiKANLayer has JacobiKAN's keys: see `jacobikan.py`. Of Laguerre and
Gegenbauer polynomials, alpha is a Python number and in no file; OrthogPolyKANLayer, which
makes any of these layers, has 3 as default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from kanexport.bases import polynomial
from kanexport.bases.polynomial import Polynomial
from kanexport.form.ir import BasisTerm, Layer
from kanexport.layers.parts import Keys, Part
from kanexport.layers.stack import LayerKind
from kanexport.options import Options

Make = Callable[[int, Options], Polynomial]


def _layer(name: str, make: Make, part: Part, options: Options) -> Layer:
    """One layer with coefficients of that name. Raises InvalidKan or OptionError."""
    coef = part.tensor(name, None, None, None)
    n, m, functions = coef.shape
    term = BasisTerm(make(functions - 1, options), coef)
    return Layer((term,), mask=np.ones((n, m)), bias=np.zeros(m), nan_spreads=np.zeros((n, m), dtype=bool))


def _kind(family: str, name: str, make: Make) -> LayerKind:
    return LayerKind(family, Keys(required={name: 3}, optional={}), functools.partial(_layer, name, make))


def _plain(make: Callable[[int], Polynomial]) -> Make:
    return lambda degree, options: make(degree)


def _with_alpha(make: Callable[[int, float], Polynomial], option: str) -> Make:
    return lambda degree, options: make(degree, options.number(option, "3.0"))


FAMILIES = (
    _kind("besselkan", "bessel_coeffs", _plain(polynomial.bessel)),
    _kind("cheby2kan", "cheby2_coeffs", _plain(polynomial.chebyshev2)),
    _kind("fibonaccikan", "fib_coeffs", _plain(polynomial.fibonacci)),
    _kind("gegenbauerkan", "gegenbauer_coeffs", _with_alpha(polynomial.gegenbauer, "gegenbauer_alpha")),
    _kind("hermitekan", "hermite_coeffs", _plain(polynomial.hermite)),
    _kind("laguerrekan", "laguerre_coeffs", _with_alpha(polynomial.laguerre, "laguerre_alpha")),
    _kind("legendrekan", "legendre_coeffs", _plain(polynomial.legendre)),
    _kind("lucaskan", "lucas_coeffs", _plain(polynomial.lucas)),
)
