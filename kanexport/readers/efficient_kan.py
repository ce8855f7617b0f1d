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

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import InvalidKan
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Affine, Clip, Elementwise, Step
from kanexport.options import Options
from kanexport.readers.common import layer_tensors
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Keys, Part, scaled

FAMILY = "efficient-kan"
OPTIONAL = {"spline_scaler": 2, "bias": 1}
KEYS = Keys(required={"base_weight": 2, "spline_weight": 3, "grid": 2}, optional=OPTIONAL)
ROW_KEYS = Keys(required={"base_weight": 2, "spline_weight": 3, "grid": 1}, optional=OPTIONAL)
TANH, HALF, CLAMPED = "spline-of-tanh", "spline-of-tanh-01", "spline-clamped"
COPIES = {
    TANH: "copies whose splines read tanh(x)",
    HALF: "copies whose splines read (tanh(x) + 1) / 2",
    CLAMPED: "copies that keep what the splines read inside the grid",
}


def fits(part: Part) -> bool:
    """The grid must have the length of extended knots: KANX uses the same names with
    other axes and a grid that is not extended."""
    return part.shape("grid")[-1] > part.shape("spline_weight")[2] + 1


def layer(part: Part, options: Options) -> Layer:
    """One KANLinear. Raises InvalidKan or OptionError."""
    activation = Activation(layer_tensors.activation(options, "silu"))
    m, n, functions = part.shape("spline_weight")
    if not fits(part):
        raise InvalidKan(
            f"grid has shape {part.shape('grid')}, expected (sources, {functions} + k + 1) with k >= 1",
            hint="a grid of length G + 1 is KANX's layer, which has other axes",
        )
    grid = part.tensor("grid", n, None) if len(part.shape("grid")) == 2 else np.tile(part.tensor("grid", None), (n, 1))
    splines = BSpline(grid, grid.shape[1] - functions - 1)
    forward = options.forward(FAMILY, COPIES)
    base = part.tensor("base_weight", m, n)
    return Layer(
        terms=(
            BasisTerm(splines, _coefficients(part, options).transpose(1, 0, 2), _before(forward, splines)),
            BasisTerm(activation, base.T[:, :, None]),
        ),
        mask=np.ones((n, m)),
        bias=part.tensor("bias", m) if part.has("bias") else np.zeros(m),
        # The basis of a non-finite value is NaN there, and its product reaches every sum. For infinities, tanh
        # and a clamp give finite numbers.
        nan_spreads=np.full((n, m), forward == FAMILY),
    )


def _coefficients(part: Part, options: Options) -> layer_tensors.Array:
    """The coefficients of the splines [m, n, G + k], with their scaler."""
    weight = part.tensor("spline_weight", None, None, None)
    if not part.has("spline_scaler"):
        return weight
    scaler = part.tensor("spline_scaler", *weight.shape[:2])
    used = options.choice("spline_scaler", ("used", "unused"), "used") == "used"
    return scaled(weight, scaler[:, :, None]) if used else weight


def _before(forward: str, splines: BSpline) -> tuple[Step, ...]:
    """The steps from x to the input of the splines."""
    n, (low, high) = len(splines.extended), splines.support(len(splines.extended)).core
    tanh, half = Elementwise(elementwise.activation("tanh")), np.full(n, 0.5)
    steps: dict[str, tuple[Step, ...]] = {TANH: (tanh,), HALF: (tanh, Affine(half, half)), CLAMPED: (Clip(low, high),)}
    return steps.get(forward, ())


FAMILIES = (LayerKind(FAMILY, KEYS, layer, fits), LayerKind("efficient-kan-row", ROW_KEYS, layer, fits))
