"""efficient-kan and its many copies: `KANLinear` layers.

Source: Blealtan/efficient-kan, KANLinear.forward, for n inputs and m outputs:

    y_j = sum_i W_ji act(x_i) + sum_i a_ji sum_c S_jic B_c(x_i; grid_i)

with W `base_weight` [m, n], S `spline_weight` [m, n, G + k], a `spline_scaler`
[m, n] (absent with enable_standalone_scale_spline=False, then 1) and extended
knots `grid` [n, G + 2k + 1]. `base_activation` is in no file; its default is SiLU.
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import InvalidKan
from kanexport.form.ir import BasisTerm, Layer
from kanexport.layers import parts
from kanexport.layers.parts import Keys, Part, product
from kanexport.options import Options

FAMILY = "efficient-kan"
KEYS = Keys(required={"base_weight": 2, "spline_weight": 3, "grid": 2}, optional={"spline_scaler": 2})


def fits(part: Part) -> bool:
    """The grid must have the length of extended knots: KANX uses the same names with
    other axes and a grid that is not extended."""
    return part.shape("grid")[1] > part.shape("spline_weight")[2] + 1


def layer(part: Part, options: Options) -> Layer:
    """One KANLinear. Raises InvalidKan or OptionError."""
    activation = Activation(parts.activation(options, "silu"))
    m, n, functions = part.shape("spline_weight")
    if not fits(part):
        raise InvalidKan(
            f"grid has shape {part.shape('grid')}, expected (sources, {functions} + k + 1) with k >= 1",
            hint="a grid of length G + 1 is KANX's layer, which has other axes",
        )
    grid = part.tensor("grid", n, None)
    scaler = part.tensor("spline_scaler", m, n) if part.has("spline_scaler") else np.ones((m, n))
    coef = product(part.tensor("spline_weight", m, n, functions), scaler[:, :, None])
    base = part.tensor("base_weight", m, n)
    return Layer(
        terms=(
            BasisTerm(BSpline(grid, grid.shape[1] - functions - 1), coef.transpose(1, 0, 2)),
            BasisTerm(activation, base.T[:, :, None]),
        ),
        mask=np.ones((n, m)),
        bias=np.zeros(m),
        # The basis of a non-finite value is NaN there, and its product reaches every sum.
        nan_spreads=np.ones((n, m), dtype=bool),
    )
