"""BSRBF-KAN: B-splines and Gaussians with a shared weight, and a base branch, all on normalized inputs.

Source: hoangthangta/BSRBF_KAN, models/bsrbf_kan.py, BSRBF_KANLayer.forward, for n inputs, m outputs
and C = G + k functions of each kind:

    h   = LayerNorm(x)
    y_j = sum_i W_ji act(h_i) + sum_i sum_c V[j, i C + c] (B_c(h_i; grid_i) + exp(-((h_i - g_c) / d)^2))

with W `base_weight` [m, n], V `spline_weight` [m, n C], extended knots `grid` [n, G + 2k + 1] and
centres g `rbf.grid` [C]. The width `d` is a Python number and in no file: (g_max - g_min) / (C - 1).
`base_activation` is a class, SiLU by default.

Options: denominator, base_activation, layernorm_eps
Edge classes: A, B
"""

from __future__ import annotations

from kanexport.bases.gaussian import Gaussian
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps, module_kinds
from kanexport.readers.common.layer_tensors import Keys, Part, activation, branch, layer_of, stored_splines

FAMILY = "bsrbf-kan"
KEYS = Keys(
    required={"base_weight": 2, "spline_weight": 2, "rbf.grid": 1, "grid": 2},
    optional={"layernorm.weight": 1, "layernorm.bias": 1},
    absent=("scale", "translation"),  # FC-KAN's
)


def layer(part: Part, options: Options) -> Layer:
    """One BSRBF_KANLayer. Raises InvalidKan or OptionError."""
    centres = part.tensor("rbf.grid", None)
    coef = part.blocks("spline_weight", len(centres))
    n, m, count = coef.shape
    splines = stored_splines(part, n, count)
    base = branch(activation(options, "silu"), part.tensor("base_weight", m, n))
    pre_steps = module_kinds.layer_norm(part.inside("layernorm"), options, n)
    return layer_of(
        BasisTerm(splines, coef),
        BasisTerm(Gaussian(centres, grid_steps.denominator(centres, options)), coef),
        base,
        # The basis of a non-finite value is NaN there, and its product reaches every sum.
        nan_spreads=True,
        pre_steps=pre_steps,
    )
