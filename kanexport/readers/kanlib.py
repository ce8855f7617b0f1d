"""KANLib: B-splines or Gaussians with a grid of its own for every source, beside a SiLU branch.

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
from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.bases.gaussian import Gaussian
from kanexport.errors import InvalidKan
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import chain
from kanexport.readers.common.layer_tensors import Array, Keys, Part, product

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
    basis = _basis(part, n, functions)
    if part.has("weight_spline"):
        coef = product(coef, part.tensor("weight_spline", m, n)[:, :, None])
    pre_steps: tuple[Step, ...] = ()
    if part.has("spline_input_norm.weight"):
        norm = Part(part.tensors, part.prefix + "spline_input_norm.")
        pre_steps = (chain.norm(norm, options, "layernorm", n),)
    terms = [BasisTerm(basis, coef.transpose(1, 0, 2), pre_steps)]
    if part.has("weight_residual"):
        silu = Activation(elementwise.activation("silu"))
        terms.append(BasisTerm(silu, part.tensor("weight_residual", m, n).T[:, :, None]))
    return Layer(
        tuple(terms),
        mask=np.ones((n, m)),
        bias=part.tensor("bias_output", m) if part.has("bias_output") else np.zeros(m),
        # A B-spline of a non-finite value is NaN there, and its product reaches every sum.
        nan_spreads=np.full((n, m), isinstance(basis, BSpline)),
    )


def _basis(part: Part, sources: int, functions: int) -> Basis:
    """The basis that the grid describes. Raises InvalidKan."""
    grid = part.tensor("basis.grid", sources, None)
    if grid.shape[1] > functions + 1:
        return BSpline(grid, grid.shape[1] - functions - 1)
    if grid.shape[1] != functions:
        raise InvalidKan(
            f"basis.grid has shape {grid.shape}, expected ({sources}, {functions}) centres, or "
            f"({sources}, {functions} + k + 1) knots with k >= 1"
        )
    return Gaussian(grid, _widths(part, grid))


def _widths(part: Part, grid: Array) -> Array:
    """[n]: the inverse of epsilon, or the mean distance of the centres."""
    with np.errstate(divide="ignore", invalid="ignore"):  # the basis refuses what is not finite, and zero
        if part.has("basis.epsilon"):
            return np.asarray(1 / part.tensor("basis.epsilon", len(grid), 1)[:, 0])
        return np.asarray((grid.max(axis=1) - grid.min(axis=1)) / (grid.shape[1] - 1))
