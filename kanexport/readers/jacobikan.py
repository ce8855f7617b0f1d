"""JacobiKAN: Jacobi polynomials P^(a, b) of tanh(x).

Source: SpaceLearner/JacobiKAN, JacobiKANLayer.forward, for n inputs, m outputs, degree D:

    y_j = sum_i sum_d C[i, j, d] P_d^(a, b)(tanh x_i)

a and b are Python numbers and in no file; their default is 1. X-KANeRF's and KAN4TSF's layers are
the same. OrthogPolyKANs has a layer of the same name and keys with another recurrence, and 3 as
default: forward=orthogpolykans. Public copies without tanh and such: `readers/common/grid_steps.py`.

Options: forward, jacobi_a, jacobi_b, squash_eps
"""

from __future__ import annotations

from kanexport.bases import polynomial
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps
from kanexport.readers.common.layer_tensors import Keys, Part, layer_of

FAMILY = "jacobikan"
KEYS = Keys(required={"jacobi_coeffs": 3}, optional={}, absent=("base_weights", "base_weight"))  # KAJN's, ikan's
RIVALS = {"orthogpolykans": "OrthogPolyKANs, which has another recurrence, and 3 for a and b"}
NUMBERS = ("1.0", "0.0", "0.5", "-0.5", "2.0", "3.0", "0.9")  # a and b in published models


def layer(part: Part, options: Options) -> Layer:
    """One JacobiKANLayer. Raises InvalidKan or OptionError."""
    whose = grid_steps.forward(options, FAMILY, RIVALS)
    coef = grid_steps.coefficients(part, "jacobi_coeffs", whose)
    default = "3.0" if whose == "orthogpolykans" else "1.0"
    a, b = (options.number(f"jacobi_{name}", default, among=NUMBERS) for name in "ab")
    degree = coef.shape[2] - 1
    if whose == "orthogpolykans":
        return layer_of(BasisTerm(polynomial.jacobi_orthogpoly(degree, a, b), coef))
    return layer_of(BasisTerm(grid_steps.squashed(polynomial.jacobi(degree, a, b), whose, options), coef))
