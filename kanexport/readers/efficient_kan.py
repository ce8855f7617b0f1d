"""efficient-kan and its many copies: `KANLinear` layers.

Source: Blealtan/efficient-kan, KANLinear.forward, for n inputs and m outputs:

    y_j = sum_i W_ji act(x_i) + sum_i a_ji sum_c S_jic B_c(u_i; grid_i),   u = x

with W `base_weight` [m, n], S `spline_weight` [m, n, G + k], a `spline_scaler`
[m, n] (absent with enable_standalone_scale_spline=False, then 1) and extended
knots `grid` [n, G + 2k + 1]; a copy may keep one row of knots, `grid` [G + 2k + 1].
`base_activation` is in no file; its default is SiLU.

Copies write the same tensors and have splines of something else: u = tanh(x), u = (tanh(x) + 1) / 2,
or u = x kept inside the grid without its extension. The library itself, from commit 8175cda to a47b9a8,
stored the scaler and did not use it. Copies may add a bias [m].

Options: forward, base_activation, spline_scaler
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.bspline import BSpline
from kanexport.errors import InvalidKan
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Affine, Clip, Elementwise, Step
from kanexport.options import Options
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Keys, Part, activation, branch, layer_of, scaled

FAMILY = "efficient-kan"
OPTIONAL = {"spline_scaler": 2, "bias": 1}
KEYS = Keys(required={"base_weight": 2, "spline_weight": 3, "grid": 2}, optional=OPTIONAL)
ROW_KEYS = Keys(required={"base_weight": 2, "spline_weight": 3, "grid": 1}, optional=OPTIONAL)
TANH, HALF, CLAMPED = "spline-of-tanh", "spline-of-tanh-01", "spline-clamped"
COPIES = {
    TANH: "copies with splines of tanh(x)",
    HALF: "copies with splines of (tanh(x) + 1) / 2",
    CLAMPED: "copies that clamp the input of the splines to the grid",
}


def fits(part: Part) -> bool:
    """Whether the grid has the length of extended knots. KANX uses the same names with other axes and a grid that is
    not extended."""
    return part.shape("grid")[-1] > part.shape("spline_weight")[2] + 1


def layer(part: Part, options: Options) -> Layer:
    """One KANLinear. Raises InvalidKan or OptionError."""
    base_function = activation(options, "silu")
    m, n, functions = part.shape("spline_weight")
    if not fits(part):
        raise InvalidKan(
            f"grid has shape {part.shape('grid')}, expected (sources, {functions} + k + 1) with k >= 1",
            code="grid-wrong-shape",
            hint="pass --family kanx for a grid of length G + 1",
        )
    grid = part.tensor("grid", n, None) if len(part.shape("grid")) == 2 else np.tile(part.tensor("grid", None), (n, 1))
    splines = BSpline(grid, grid.shape[1] - functions - 1)
    forward = options.forward(FAMILY, COPIES)
    base = branch(base_function, part.tensor("base_weight", m, n))
    weight = part.tensor("spline_weight", m, n, functions)
    if part.has("spline_scaler"):
        scaler = part.tensor("spline_scaler", m, n)
        if options.choice("spline_scaler", ("used", "unused"), "used") == "used":
            weight = scaled(weight, scaler[:, :, None])
    # From x to the input of the splines.
    tanh, half = Elementwise(elementwise.activation("tanh")), np.full(n, 0.5)
    clip = Clip(*splines.support(n).core)
    steps: dict[str, tuple[Step, ...]] = {TANH: (tanh,), HALF: (tanh, Affine(half, half)), CLAMPED: (clip,)}
    return layer_of(
        BasisTerm(splines, weight.transpose(1, 0, 2), steps.get(forward, ())),
        base,
        bias=part.optional("bias", m),
        # The basis of a non-finite value is NaN there, and its product reaches every sum. For infinities, tanh
        # and a clamp give finite numbers.
        nan_spreads=forward == FAMILY,
    )


FAMILIES = (LayerKind(FAMILY, KEYS, layer, fits), LayerKind("efficient-kan-row", ROW_KEYS, layer, fits))
