"""ChebyKAN: Chebyshev polynomials of tanh(x).

Source: SynodicMonth/ChebyKAN, ChebyKANLayer.forward, for n inputs, m outputs, degree D:

    y_j = sum_i sum_d C[i, j, d] cos(d acos(tanh x_i))

The buffer `arange`, 0 .. D, is in newer files only. torch-conv-kan's KACN has the same layer.
"""

from __future__ import annotations

import numpy as np

from kanexport.bases import polynomial
from kanexport.errors import InvalidKan
from kanexport.form.ir import BasisTerm, Layer
from kanexport.layers.parts import Keys, Part
from kanexport.options import Options

FAMILY = "chebykan"
KEYS = Keys(required={"cheby_coeffs": 3}, optional={"arange": 1})


def layer(part: Part, options: Options) -> Layer:
    """One ChebyKANLayer. Raises InvalidKan."""
    coef = part.tensor("cheby_coeffs", None, None, None)
    n, m, functions = coef.shape
    if part.has("arange") and not np.array_equal(part.tensor("arange", functions), np.arange(functions)):
        raise InvalidKan(f"arange does not count from 0 to {functions - 1}, the degrees of cheby_coeffs")
    term = BasisTerm(polynomial.chebyshev(functions - 1), coef)
    return Layer((term,), mask=np.ones((n, m)), bias=np.zeros(m), nan_spreads=np.zeros((n, m), dtype=bool))
