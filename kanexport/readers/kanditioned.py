"""KANditioned: piecewise linear functions on equally spaced points.

Source: KANditioned 1.0.4, KANLayer.forward, for n inputs, m outputs and P points on
[-w/2, w/2]: the line through the two points beside x_i, or beyond the ends through the
last two; all `impl` choices compute that. The values v at the points are

    variant "B-spline":       v_ipj = kan_weight[i, p, j]
    variant "parallel_scan":  v_ipj = sum_q (p - q)+ r_weight[i, q, j] + (q - p)+ l_weight[i, q, j]

`w` is a Python number, the constructor's `spline_width`, and in no file; its default is
4, and the option has both names. The buffers
`local_bias` and `feature_offset` hold indices.

Options: w, spline_width
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.piecewise_linear import Hats
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common.layer_tensors import Array, Keys, Part, layer_of

FAMILY = "kanditioned"
KEYS = Keys(
    required={"local_bias": 3, "feature_offset": 2},
    optional={"kan_weight": 3, "r_weight": 3, "l_weight": 3},
)


def layer(part: Part, options: Options) -> Layer:
    """One KANLayer. Raises InvalidKan or OptionError."""
    n, points = part.shape("feature_offset")[1], part.shape("local_bias")[1]
    if part.has("kan_weight"):
        values = part.tensor("kan_weight", n, points, None)
    elif part.has("r_weight"):
        right = part.tensor("r_weight", n, points, None)
        left = part.tensor("l_weight", *right.shape)
        with np.errstate(over="ignore", invalid="ignore"):  # the layer refuses what is not finite
            values = _ramps(right) + _ramps(left[:, ::-1])[:, ::-1]
    else:
        raise InvalidKan(
            "the layer has neither kan_weight nor r_weight and l_weight", code="tensor-missing", hint=USE_MODULE
        )
    own = options.optional("spline_width") is not None
    basis = Hats(points, options.number("spline_width" if own else "w", "4.0"))
    return layer_of(BasisTerm(basis, Hats.coefficients(values)))


def _ramps(weights: Array) -> Array:
    """sum over q of max(p - q, 0) * weights[:, q], [n, P, m]: two running sums."""
    values = np.zeros_like(weights)
    values[:, 1:] = np.cumsum(np.cumsum(weights, axis=1)[:, :-1], axis=1)
    return values
