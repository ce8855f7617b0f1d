"""TaylorKAN: powers of the source itself.

Source: Muyuzhierchengse/TaylorKAN, TaylorLayer.forward, for n inputs, m outputs, order D:

    y_j = sum_i sum_{d < D} C[j, i, d] x_i^d + bias_j

KAN4TSF's TaylorKANLayer is the same, and SciYu/KAE's, of order + 1. The bias is absent with addbias=False.
KAE's other copies apply a function to the result, which no file tells: the option
output_activation, identity by default.

Options: output_activation
"""

from __future__ import annotations

from kanexport.bases import recurrence
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Elementwise
from kanexport.options import Options
from kanexport.readers.common.layer_tensors import Keys, Part, activation, layer_of

FAMILY = "taylorkan"
AMBIGUOUS = True  # other layers have the name `coeffs` too, so it does not identify the library
KEYS = Keys(
    required={"coeffs": 3},
    optional={"bias": 2},
    # Hermite layers and TruKAN call their coefficients so too.
    absent=("base_weight", "log_sigma", "bias_out"),
)


def layer(part: Part, options: Options) -> Layer:
    """One TaylorLayer. Raises InvalidKan or OptionError."""
    coef = part.tensor("coeffs", None, None, None).transpose(1, 0, 2)
    _, m, functions = coef.shape
    if part.has("bias") and part.shape("bias") != (1, m):
        raise InvalidKan(
            f"tensor {part.prefix + 'bias'!r} has shape {part.shape('bias')}, expected {(1, m)} of TaylorKAN; "
            "other layers have the name coeffs too",
            code="tensor-wrong-shape",
            hint=f"pass --family by-shape --option forward=chebyshev-of-tanh, legendre-of-x and so on; or {USE_MODULE}",
        )
    output = activation(options, "identity", "output_activation")
    return layer_of(
        BasisTerm(recurrence.monomials(functions - 1), coef),
        bias=part.optional("bias", 1, m),
        post_steps=() if output.name == "identity" else (Elementwise(output),),
    )
