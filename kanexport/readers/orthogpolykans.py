"""OrthogPolyKANs: eight kinds of polynomials of tanh(x), identified by the name of the coefficients.

Source: Boris-73-TA/OrthogPolyKANs, <Kind>KANLayer.forward, for n inputs, m outputs, degree D:

    y_j = sum_i sum_d C[i, j, d] P_d(tanh x_i)

The library's JacobiKANLayer has JacobiKAN's keys: see `jacobikan.py`. For Laguerre and
Gegenbauer polynomials, alpha is a Python number and in no file; OrthogPolyKANLayer, which
makes any of these layers, has 3 as default.

The first versions of its Fibonacci and Lucas layers took tanh of every polynomial (of Lucas: forward=first-version).
lif314/X-KANeRF has all eight layers, of the same keys. Its Fibonacci layer does so still
(forward=x-kanerf), and alpha of its Laguerre layers is -1/2 by default. Copies of its Hermite layer
compute Hermite functions (forward=hermite-functions). Copies keep the coefficients of other polynomials
under the name of the second kind's, `cheby2_coeffs`: of Legendre's (forward=legendre), and of what one copy calls
Jacobi's (forward=jacobi-like), 1, (5 u - 3) / 2, (35 u^2 - 30 u + 3) / 8, (255 u^3 - 210 u^2 + 45 u - 15) / 16 and
(10395 u^4 - 10395 u^3 + 4725 u^2 - 945 u + 35) / 128; both up to degree 4. Public copies without tanh and such:
`readers/common/grid_steps.py`.

Options: forward, gegenbauer_alpha, laguerre_alpha, hermite_eps, squash_eps
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from kanexport.bases import Basis, polynomial, recurrence
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Keys, Part, layer_of

Make = Callable[[int, str, Options], Basis]  # from the degree, whose forward, and the options

ALPHAS = ("3.0", "1.0", "0.5", "-0.5", "0.0", "2.0")  # in published models
RIVALS = {
    "fibonaccikan": {"x-kanerf": "X-KANeRF and the first version of the library, with tanh of every polynomial"},
    "lucaskan": {"first-version": "the first version of the library, with tanh of every polynomial"},
    "hermitekan": {
        "hermite-functions": "copies that compute Hermite functions of tanh(x) (sqrt(2 degree + 1) + hermite_eps)"
    },
}
FIRST = {
    "legendre": "copies that compute Legendre polynomials, up to degree 4",
    "jacobi-like": "copies that compute polynomials which they call Jacobi, up to degree 4",
}
# [D + 1, D + 1]: of the polynomials that a copy calls Jacobi's, what multiplies 1, u, u^2, ...
JACOBI_LIKE = np.array(
    [
        [1, 0, 0, 0, 0],
        [-3 / 2, 5 / 2, 0, 0, 0],
        [3 / 8, -30 / 8, 35 / 8, 0, 0],
        [-15 / 16, 45 / 16, -210 / 16, 255 / 16, 0],
        [35 / 128, -945 / 128, 4725 / 128, -10395 / 128, 10395 / 128],
    ]
)
ALPHA = (
    "the default of alpha is 3 in Gegenbauer layers of OrthogPolyKANs and X-KANeRF, -0.5 in Laguerre layers of X-KANeRF"
)


def _layer(family: str, name: str, make: Make, part: Part, options: Options) -> Layer:
    """One layer with coefficients of that name. Raises InvalidKan or OptionError."""
    whose = grid_steps.forward(options, family, RIVALS.get(family))
    coef = grid_steps.coefficients(part, name, whose)
    return layer_of(BasisTerm(make(coef.shape[2] - 1, whose, options), coef))


def _second_kind(part: Part, options: Options) -> Layer:
    """One Cheby2KANLayer, or a copy that stores coefficients of other polynomials under its name. Raises InvalidKan
    or OptionError."""
    degree = part.shape("cheby2_coeffs")[2] - 1
    whose = grid_steps.forward(options, "cheby2kan", FIRST if degree < len(JACOBI_LIKE) else None)
    coef = grid_steps.coefficients(part, "cheby2_coeffs", whose)
    match whose:
        case "legendre":
            return layer_of(BasisTerm(polynomial.legendre(degree), coef))
        case "jacobi-like":
            return layer_of(BasisTerm(polynomial.powers(degree), coef @ JACOBI_LIKE[: degree + 1, : degree + 1]))
    return layer_of(BasisTerm(grid_steps.squashed(polynomial.chebyshev2(degree), whose, options), coef))


def _kind(family: str, name: str, make: Make) -> LayerKind:
    keys = Keys(required={name: 3}, optional={})
    return LayerKind(family, keys, functools.partial(_layer, family, name, make))


def _plain(make: Callable[[int], polynomial.Polynomial]) -> Make:
    return lambda degree, whose, options: grid_steps.squashed(make(degree), whose, options)


def _squashed_values(make: Callable[[int], polynomial.Polynomial]) -> Make:
    """Polynomials for which an alternative applies tanh to the values."""

    def make_basis(degree: int, whose: str, options: Options) -> Basis:
        basis = grid_steps.squashed(make(degree), whose, options)
        outer = elementwise.activation("tanh") if whose in ("x-kanerf", "first-version") else None
        return dataclasses.replace(basis, outer=outer)

    return make_basis


def _hermite(degree: int, whose: str, options: Options) -> Basis:
    if whose == "hermite-functions":
        return recurrence.hermite_functions(degree, options.number("hermite_eps", "1", among=("0", "1")))
    return grid_steps.squashed(polynomial.hermite(degree), whose, options)


def _with_alpha(make: Callable[[int, float], polynomial.Polynomial], option: str) -> Make:
    def make_basis(degree: int, whose: str, options: Options) -> Basis:
        alpha = options.number(option, ALPHAS[0], among=ALPHAS)
        options.words[option] = ALPHA
        return grid_steps.squashed(make(degree, alpha), whose, options)

    return make_basis


FAMILIES = (
    _kind("besselkan", "bessel_coeffs", _plain(polynomial.bessel)),
    LayerKind("cheby2kan", Keys(required={"cheby2_coeffs": 3}, optional={}), _second_kind),
    _kind("fibonaccikan", "fib_coeffs", _squashed_values(polynomial.fibonacci)),
    _kind("gegenbauerkan", "gegenbauer_coeffs", _with_alpha(polynomial.gegenbauer, "gegenbauer_alpha")),
    _kind("hermitekan", "hermite_coeffs", _hermite),
    _kind("laguerrekan", "laguerre_coeffs", _with_alpha(polynomial.laguerre, "laguerre_alpha")),
    _kind("legendrekan", "legendre_coeffs", _plain(polynomial.legendre)),
    _kind("lucaskan", "lucas_coeffs", _squashed_values(polynomial.lucas)),
)
