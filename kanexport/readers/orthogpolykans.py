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

from kanexport.bases import polynomial, recurrence
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Keys, Part, layer_of

Make = Callable[..., polynomial.Polynomial]  # from the degree, and alpha if there is an option for it

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


def _layer(family: str, name: str, make: Make, option: str, part: Part, options: Options) -> Layer:
    """One layer with coefficients of that name. Raises InvalidKan or OptionError."""
    whose = grid_steps.forward(options, family, RIVALS.get(family))
    coef = grid_steps.coefficients(part, name, whose)
    degree = coef.shape[2] - 1
    if whose == "hermite-functions":
        epsilon = options.number("hermite_eps", "1", among=("0", "1"))
        return layer_of(BasisTerm(recurrence.hermite_functions(degree, epsilon), coef))
    numbers = [options.number(option, ALPHAS[0], among=ALPHAS)] if option else []
    if option:
        options.words[option] = ALPHA
    basis = grid_steps.squashed(make(degree, *numbers), whose, options)
    if whose in ("x-kanerf", "first-version"):
        basis = dataclasses.replace(basis, outer=elementwise.activation("tanh"))
    return layer_of(BasisTerm(basis, coef))


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


def _kind(family: str, name: str, make: Make, option: str = "") -> LayerKind:
    keys = Keys(required={name: 3}, optional={})
    return LayerKind(family, keys, functools.partial(_layer, family, name, make, option))


FAMILIES = (
    _kind("besselkan", "bessel_coeffs", polynomial.bessel),
    LayerKind("cheby2kan", Keys(required={"cheby2_coeffs": 3}, optional={}), _second_kind),
    _kind("fibonaccikan", "fib_coeffs", polynomial.fibonacci),
    _kind("gegenbauerkan", "gegenbauer_coeffs", polynomial.gegenbauer, "gegenbauer_alpha"),
    _kind("hermitekan", "hermite_coeffs", polynomial.hermite),
    _kind("laguerrekan", "laguerre_coeffs", polynomial.laguerre, "laguerre_alpha"),
    _kind("legendrekan", "legendre_coeffs", polynomial.legendre),
    _kind("lucaskan", "lucas_coeffs", polynomial.lucas),
)
