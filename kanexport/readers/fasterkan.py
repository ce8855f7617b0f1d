"""FasterKAN: squared hyperbolic secants on normalized inputs, without base branch and bias.

Source: AthanasiosDelis/faster-kan, FasterKANLayer.forward, for n inputs, m outputs, K centres g:

    h   = LayerNorm(x)
    y_j = sum_i sum_c V[j, i K + c] (1 - tanh((h_i - g_c) r)^2)

with r = 1: `rbf.inv_denominator` is stored, but the Python forward computes the product
with it and then does not use it. Copies do, and the option inv_denominator=used takes r from
the file. The CUDA code of the same repository (cu_fasterkan, cuda/cpp) uses it as well, and lays
its functions out centre by centre: there the weight is V[j, c n + i], which forward=fasterkan-cuda reads.

Options: forward, inv_denominator, layernorm_eps
Edge classes: A, B
"""

from __future__ import annotations

from kanexport.bases.sech2 import Sech2
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import module_kinds
from kanexport.readers.common.layer_tensors import Keys, Part, layer_of

FAMILY = "fasterkan"
KEYS = Keys(
    required={"rbf.grid": 1, "rbf.inv_denominator": 0, "spline_linear.weight": 2},
    optional={"layernorm.weight": 1, "layernorm.bias": 1},
)
CUDA = {"fasterkan-cuda": "its CUDA code, which uses inv_denominator and orders the weights by center"}


def layer(part: Part, options: Options) -> Layer:
    """One FasterKANLayer. Raises InvalidKan or OptionError."""
    centres = part.tensor("rbf.grid", None)
    coef = part.blocks("spline_linear.weight", len(centres))
    n, m, count = coef.shape
    if options.forward("fasterkan", CUDA) == "fasterkan-cuda":
        coef = coef.transpose(1, 0, 2).reshape(m, count, n).transpose(2, 0, 1)
        used = True
    else:
        used = options.choice("inv_denominator", ("unused", "used"), "unused") == "used"
    basis = Sech2(centres, float(part.tensor("rbf.inv_denominator")) if used else 1.0)
    return layer_of(BasisTerm(basis, coef, module_kinds.layer_norm(part.inside("layernorm"), options, n)))
