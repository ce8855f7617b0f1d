"""flashkan, and inkan before 0.4: uniform cubic splines and a base branch.

Source: flashkan 0.2.0, KANLayer.forward, for n inputs, m outputs, K = G + 3 splines:

    y_j = sum_i sum_c S_jic B((x_i - s_c) / h) + sum_i W_ji act(x_i)

with S `spline_weight` [m, n, K], W `base_weight` [m, n] and s `grid_starts` [K], each
start as it was rounded. B is the cubic B-spline on the knots 0..4, except that the
library writes its factor 1/6 as 0.16666667. `h` is a Python number and in no file; it
follows from the starts. `base_activation` is a class, SiLU by default.

Options: h, base_activation
"""

from __future__ import annotations

from kanexport.bases.uniform_cubic import Cubic
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps
from kanexport.readers.common.layer_tensors import Keys, Part, activation, branch, layer_of

FAMILY = "flashkan"
KEYS = Keys(required={"grid_starts": 1, "spline_weight": 3, "base_weight": 2}, optional={})

SIXTH = 0.16666667


def layer(part: Part, options: Options) -> Layer:
    """One KANLayer. Raises InvalidKan or OptionError."""
    starts = part.tensor("grid_starts", None)
    m, n = part.shape("base_weight")
    coef = part.tensor("spline_weight", m, n, len(starts)) * (6 * SIXTH)
    base = branch(activation(options, "silu"), part.tensor("base_weight", m, n))
    return layer_of(
        BasisTerm(Cubic(starts, grid_steps.cubic_step(starts, options)), coef.transpose(1, 0, 2)),
        base,
        # For infinity, the truncated powers are infinity minus infinity in every output.
        nan_spreads=True,
    )
