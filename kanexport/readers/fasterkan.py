"""FasterKAN: squared hyperbolic secants on normalised inputs, without base branch and bias.

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

import numpy as np

from kanexport.bases.sech2 import Sech2
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import chain
from kanexport.readers.common.layer_tensors import Keys, Part

FAMILY = "fasterkan"
KEYS = Keys(
    required={"rbf.grid": 1, "rbf.inv_denominator": 0, "spline_linear.weight": 2},
    optional={"layernorm.weight": 1, "layernorm.bias": 1},
)
CUDA = {"fasterkan-cuda": "its CUDA code's, which uses inv_denominator and has the weights centre by centre"}


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
    pre_steps: tuple[Step, ...] = ()
    if part.has("layernorm.weight"):
        pre_steps = (chain.norm(Part(part.tensors, part.prefix + "layernorm."), options, "layernorm", n),)
    return Layer(
        terms=(BasisTerm(basis, coef, pre_steps),),
        mask=np.ones((n, m)),
        bias=np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
    )
