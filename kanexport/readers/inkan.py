"""inkan since 0.4: uniform cubic splines and a base branch in one packed weight.

Source: inkan 0.5.2, KANLayer.forward with dim=1, for n inputs, m outputs, K = G + 3 splines:

    y_j = sum_i sum_c P[j, i K + c] N((x_i - s_0) / h - c) + sum_i P[j, n K + i] act(x_i)

with P `weight` [m, n K + n], s `grid_starts` [K], of which only the first is used, and N
the cubic B-spline on the knots 0..4. `h` is a Python number and in no file; it follows
from the starts. `base_activation` is a class, SiLU by default. inkan before 0.4 writes
what flashkan writes.

Options: h, base_activation
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.bspline import BSpline
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps
from kanexport.readers.common.layer_tensors import Keys, Part, activation, branch, layer_of

FAMILY = "inkan"
KEYS = Keys(
    required={"grid_starts": 1, "weight": 2},
    optional={},
    absent=("spline_weight", "base_weight"),  # flashkan's
)


def layer(part: Part, options: Options) -> Layer:
    """One KANLayer with dim=1. Raises InvalidKan or OptionError."""
    starts = part.tensor("grid_starts", None)
    m, columns = part.shape("weight")
    count = len(starts)
    n, rest = divmod(columns, count + 1)
    if rest or not n:
        surface = columns == count * count + 2
        raise InvalidKan(
            f"weight has {columns} columns, expected sources * ({count} splines + 1)",
            code="tensor-wrong-shape",
            hint="export the PyTorch module instead: a layer with dim=2 has no edges of one input"
            if surface
            else USE_MODULE,
        )
    weight = part.tensor("weight", m, columns)
    coef = weight[:, : n * count].reshape(m, n, count)
    step = grid_steps.cubic_step(starts, options)
    knots = starts[0] + step * np.arange(count + 4)
    return layer_of(
        BasisTerm(BSpline(np.tile(knots, (n, 1)), 3), coef.transpose(1, 0, 2)),
        branch(activation(options, "silu"), weight[:, n * count :]),
    )
