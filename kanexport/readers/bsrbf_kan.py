"""BSRBF-KAN: B-splines and Gaussians with one weight, and a base branch, all on normalised inputs.

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

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.bases.gaussian import Gaussian
from kanexport.errors import InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import chain, grid_steps, layer_tensors
from kanexport.readers.common.layer_tensors import Keys, Part

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
    grid = part.tensor("grid", n, None)
    if grid.shape[1] <= count + 1:
        raise InvalidKan(f"grid has shape {grid.shape}, expected (sources, {count} + k + 1) with k >= 1")
    activation = Activation(layer_tensors.activation(options, "silu"))
    pre_steps: tuple[Step, ...] = ()
    if part.has("layernorm.weight"):
        pre_steps = (chain.norm(Part(part.tensors, part.prefix + "layernorm."), options, "layernorm", n),)
    return Layer(
        terms=(
            BasisTerm(BSpline(grid, grid.shape[1] - count - 1), coef),
            BasisTerm(Gaussian(centres, grid_steps.denominator(centres, options)), coef),
            BasisTerm(activation, part.tensor("base_weight", m, n).T[:, :, None]),
        ),
        mask=np.ones((n, m)),
        bias=np.zeros(m),
        # The basis of a non-finite value is NaN there, and its product reaches every sum.
        nan_spreads=np.ones((n, m), dtype=bool),
        pre_steps=pre_steps,
    )
