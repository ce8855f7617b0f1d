"""RBF-KAN: Gaussians beside a base branch, both on the raw inputs.

Source: sidhu2690/RBF-KAN, Fast_RBF_KAN.py, RBFKANLayer.forward, for n inputs, m outputs,
K centres g:

    y_j = sum_i sum_c V[i K + c, j] exp(-((x_i - g_c) / d)^2)
        + sum_i W_ji act(x_i) + beta_j       (absent with use_base_update=False)

`d` is a Python number and in no file: (g_max - g_min) / (K - 1). `base_activation` is a
module, SiLU by default. The notebook's other layers (`centers`, `weights`) measure the
distance of whole rows; those are no sums of one-dimensional functions.

Options: denominator, base_activation
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.gaussian import Gaussian
from kanexport.errors import InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps, layer_tensors
from kanexport.readers.common.layer_tensors import Keys, Part

FAMILY = "rbf-kan"
KEYS = Keys(
    required={"rbf_linear.grid": 1, "rbf_linear.spline_weight": 2},
    optional={"base_linear.weight": 2, "base_linear.bias": 1},
)


def layer(part: Part, options: Options) -> Layer:
    """One RBFKANLayer. Raises InvalidKan or OptionError."""
    centres = part.tensor("rbf_linear.grid", None)
    rows, m = part.shape("rbf_linear.spline_weight")
    if rows % len(centres):
        raise InvalidKan(f"rbf_linear.spline_weight has {rows} rows, no multiple of the {len(centres)} centres")
    n = rows // len(centres)
    weights = part.tensor("rbf_linear.spline_weight", rows, m).reshape(n, len(centres), m)
    basis = Gaussian(centres, grid_steps.denominator(centres, options))
    terms = [BasisTerm(basis, weights.transpose(0, 2, 1))]
    bias = np.zeros(m)
    if part.has("base_linear.weight"):
        activation = Activation(layer_tensors.activation(options, "silu"))
        terms.append(BasisTerm(activation, part.tensor("base_linear.weight", m, n).T[:, :, None]))
        bias = part.tensor("base_linear.bias", m) if part.has("base_linear.bias") else bias
    return Layer(tuple(terms), mask=np.ones((n, m)), bias=bias, nan_spreads=np.zeros((n, m), dtype=bool))
