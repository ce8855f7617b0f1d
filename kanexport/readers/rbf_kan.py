"""RBF-KAN: Gaussians and a base branch, both on the raw inputs.

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

from kanexport.bases.gaussian import Gaussian
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps
from kanexport.readers.common.layer_tensors import Keys, Part, activation, branch, layer_of

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
        raise InvalidKan(
            f"rbf_linear.spline_weight has {rows} rows, expected a multiple of the {len(centres)} centers",
            code="tensor-wrong-shape",
            hint=USE_MODULE,
        )
    n = rows // len(centres)
    weights = part.tensor("rbf_linear.spline_weight", rows, m).reshape(n, len(centres), m)
    basis = Gaussian(centres, grid_steps.denominator(centres, options))
    gaussians = BasisTerm(basis, weights.transpose(0, 2, 1))
    if not part.has("base_linear.weight"):
        return layer_of(gaussians)
    base = branch(activation(options, "silu"), part.tensor("base_linear.weight", m, n))
    return layer_of(gaussians, base, bias=part.optional("base_linear.bias", m))
