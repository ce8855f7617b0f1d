"""JacobiKAN: Jacobi polynomials P^(a, b) of tanh(x).

Source: SpaceLearner/JacobiKAN, JacobiKANLayer.forward, for n inputs, m outputs, degree D:

    y_j = sum_i sum_d C[i, j, d] P_d^(a, b)(tanh x_i)

a and b are Python numbers and in no file; their default is 1. OrthogPolyKANs has a layer
of the same name and keys with another recurrence, and 3 as default.
"""

from __future__ import annotations

import numpy as np

from kanexport.bases import polynomial
from kanexport.form.ir import BasisTerm, Layer
from kanexport.layers.parts import Keys, Part
from kanexport.options import Options

FAMILY = "jacobikan"
KEYS = Keys(required={"jacobi_coeffs": 3}, optional={}, absent=("base_weights",))  # KAJN's
# By library: the recurrence, and its default of a and b.
RECURRENCES = {"jacobikan": (polynomial.jacobi, "1.0"), "orthogpolykans": (polynomial.jacobi_orthogpoly, "3.0")}


def layer(part: Part, options: Options) -> Layer:
    """One JacobiKANLayer. Raises InvalidKan or OptionError."""
    coef = part.tensor("jacobi_coeffs", None, None, None)
    n, m, functions = coef.shape
    make, default = RECURRENCES[options.choice("jacobi_library", RECURRENCES, "jacobikan")]
    basis = make(functions - 1, options.number("jacobi_a", default), options.number("jacobi_b", default))
    return Layer(
        (BasisTerm(basis, coef),), mask=np.ones((n, m)), bias=np.zeros(m), nan_spreads=np.zeros((n, m), dtype=bool)
    )
