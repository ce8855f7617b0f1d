"""KANX for torch: the names of efficient-kan with other axes, and a grid that the forward extends.

Source: kanx 0.2.1, kanx.torch.layers.KANLinear.forward (MatrixKANLinear is the same
function), for n inputs and m outputs:

    y_j = sum_i W_ij act(x_i) + sum_i sum_c S_ijc B_c(x_i; t_i)

with W `base_weight` [n, m], S `spline_weight` [n, m, G + k] and `grid` [n, G + 1]. The
knots t_i are the grid and k more on each side, (grid_i[G] - grid_i[0]) / G apart, and may
repeat: a denominator of zero in the recursion is replaced by 1. Its `save()` writes the
activation's name beside the state dict; elsewhere SiLU is assumed.

Options: base_activation
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from kanexport.bases.bspline import BSpline, Repeated
from kanexport.errors import InvalidKan
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common.layer_tensors import Array, Keys, Part, branch, layer_of

FAMILY = "kanx"
KEYS = Keys(required={"base_weight": 2, "spline_weight": 3, "grid": 2}, optional={}, absent=("spline_scaler",))

ALIASES = {"swish": "silu", "linear": "identity"}


def fits(part: Part) -> bool:
    """Whether the grid has the length of knots that are not extended, G + 1 <= G + k. A longer grid is that of
    efficient-kan, which has the same names and other axes."""
    return part.shape("grid")[1] <= part.shape("spline_weight")[2]


def layer(part: Part, options: Options) -> Layer:
    """One KANLinear. Raises InvalidKan or OptionError."""
    n, m, functions = part.shape("spline_weight")
    if not fits(part) or part.shape("grid")[1] < 2:
        raise InvalidKan(
            f"grid has shape {part.shape('grid')}, expected (sources, G + 1) with G >= 1 and, for the "
            f"{functions} functions of spline_weight, G + k = {functions} with k >= 1",
            code="grid-wrong-shape",
            hint="pass --family efficient-kan for a grid that is longer than the number of functions",
        )
    grid = part.tensor("grid", n, None)
    degree = functions - grid.shape[1] + 1
    name = options.text("base_activation", "silu", stored=_stored_activation(part.beside, part.prefix)).lower()
    function = elementwise.activation(ALIASES.get(name, name))
    splines = BSpline(extended(grid, degree), degree, Repeated.TERM)
    return layer_of(
        BasisTerm(splines, part.tensor("spline_weight", n, m, functions)),
        branch(function, part.tensor("base_weight", n, m).T),
        # The basis of a non-finite value is NaN there, and its product reaches every sum.
        nan_spreads=True,
    )


def extended(grid: Array, degree: int) -> Array:
    """Knots [I, G + 2k + 1] from grids [I, G + 1]: `degree` more on each side, at the mean grid interval."""
    beyond = np.arange(1, degree + 1)
    with np.errstate(invalid="ignore", over="ignore"):  # the basis refuses what is not finite
        step = (grid[:, -1:] - grid[:, :1]) / (grid.shape[1] - 1)
        return np.concatenate([grid[:, :1] - step * beyond[::-1], grid, grid[:, -1:] + step * beyond], axis=1)


def _stored_activation(extras: Any, prefix: str) -> str | None:
    """The activation that `save()` of KANX wrote for the layer of that number, if it did."""
    defaults, layers = extras.get("defaults"), extras.get("layers_spec")
    number = re.search(r"(\d+)\.$", prefix)
    specs = [defaults]
    if isinstance(layers, list) and number and int(number[1]) < len(layers):
        specs.insert(0, layers[int(number[1])])
    names = [spec.get("base_activation") for spec in specs if isinstance(spec, dict)]
    return next((name for name in names if isinstance(name, str)), None)
