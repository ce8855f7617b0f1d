"""KANLib: B-splines or Gaussians with a separate grid for every source, and a SiLU branch.

Source: julianhoever/KANLib, nn/kan_base_layer.py, nn/bspline and nn/grbf, Linear.forward, for n inputs,
m outputs, K functions:

    y_j = sum_i w_ji sum_c C_jic f_c(u_i) + sum_i r_ji silu(x_i) + b_j

with C `coefficients` [m, n, K] and, where the layer has them, w `weight_spline` [m, n], r
`weight_residual` [m, n], b `bias_output` [m]. u is x, or before June 2026 its LayerNorm
(`spline_input_norm`). Which functions shows the length of `basis.grid`: extended knots [n, K + k + 1]
of B-splines, or centres [n, K] of exp(-(e_i (u - g_ic))^2) with e `basis.epsilon` [n, 1], which for some
time was no tensor but the inverse of the centres' distance.

Options: layernorm_eps
Edge classes: A, B
"""

from __future__ import annotations

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.bspline import BSpline
from kanexport.bases.gaussian import Gaussian
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import module_kinds
from kanexport.readers.common.layer_tensors import Keys, Part, branch, layer_of, product

FAMILY = "kanlib"
KEYS = Keys(
    required={"coefficients": 3, "basis.grid": 2},
    optional={
        "weight_spline": 2,
        "weight_residual": 2,
        "bias_output": 1,
        "basis.epsilon": 2,
        "spline_input_norm.weight": 1,
        "spline_input_norm.bias": 1,
    },
)


def layer(part: Part, options: Options) -> Layer:
    """One Linear of nn.bspline or nn.grbf. Raises InvalidKan or OptionError."""
    coef = part.tensor("coefficients", None, None, None)
    m, n, functions = coef.shape
    grid = part.tensor("basis.grid", n, None)
    if grid.shape[1] > functions + 1:
        basis: Basis = BSpline(grid, grid.shape[1] - functions - 1)
    elif grid.shape[1] == functions:
        with np.errstate(divide="ignore", invalid="ignore"):  # the basis refuses what is not finite, and zero
            if part.has("basis.epsilon"):
                widths = 1 / part.tensor("basis.epsilon", n, 1)[:, 0]
            else:
                widths = (grid.max(axis=1) - grid.min(axis=1)) / (functions - 1)
        basis = Gaussian(grid, widths)
    else:
        raise InvalidKan(
            f"basis.grid has shape {grid.shape}, expected ({n}, {functions}) centers, or "
            f"({n}, {functions} + k + 1) knots with k >= 1",
            code="grid-wrong-shape",
            hint=USE_MODULE,
        )
    if part.has("weight_spline"):
        coef = product(coef, part.tensor("weight_spline", m, n)[:, :, None])
    pre_steps = module_kinds.layer_norm(part.inside("spline_input_norm"), options, n)
    terms = [BasisTerm(basis, coef.transpose(1, 0, 2), pre_steps)]
    if part.has("weight_residual"):
        terms.append(branch(elementwise.activation("silu"), part.tensor("weight_residual", m, n)))
    # A B-spline of a non-finite value is NaN there, and its product reaches every sum.
    return layer_of(*terms, bias=part.optional("bias_output", m), nan_spreads=isinstance(basis, BSpline))
