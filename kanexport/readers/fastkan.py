"""FastKAN: Gaussians on normalised inputs beside a base branch on raw ones.

Source: ZiyaoLi/fast-kan, FastKANLayer.forward, for n inputs, m outputs, K centres g:

    h   = LayerNorm(x)                       (absent with use_layernorm=False)
    y_j = sum_i sum_c V[j, i K + c] exp(-((h_i - g_c) / d)^2)
        + sum_i W_ji act(x_i) + beta_j       (absent with use_base_update=False)

`d` is a Python number and in no file; the library's default is the centres' spacing,
(g_max - g_min) / (K - 1). `base_activation` is a function, SiLU by default. Copies of
the layer are read as well where `base_linear` has no bias.
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.gaussian import Gaussian
from kanexport.form.ir import BasisTerm, Layer
from kanexport.form.steps import Step
from kanexport.layers import parts, spacing, stack
from kanexport.layers.parts import Keys, Part
from kanexport.options import Options

FAMILY = "fastkan"
KEYS = Keys(
    required={"rbf.grid": 1, "spline_linear.weight": 2},
    optional={"layernorm.weight": 1, "layernorm.bias": 1, "base_linear.weight": 2, "base_linear.bias": 1},
    absent=("rbf.inv_denominator",),  # FasterKAN's
)


def layer(part: Part, options: Options) -> Layer:
    """One FastKANLayer. Raises InvalidKan or OptionError."""
    centres = part.tensor("rbf.grid", None)
    coef = part.blocks("spline_linear.weight", len(centres))
    n, m, _ = coef.shape
    basis = Gaussian(centres, spacing.denominator(centres, options))
    before: tuple[Step, ...] = ()
    if part.has("layernorm.weight"):
        before = (stack.norm(Part(part.tensors, part.prefix + "layernorm."), options, "layernorm", n),)
    terms = [BasisTerm(basis, coef, before)]
    bias = np.zeros(m)
    if part.has("base_linear.weight"):
        activation = Activation(parts.activation(options, "silu"))
        terms.append(BasisTerm(activation, part.tensor("base_linear.weight", m, n).T[:, :, None]))
        bias = part.tensor("base_linear.bias", m) if part.has("base_linear.bias") else bias
    return Layer(tuple(terms), mask=np.ones((n, m)), bias=bias, nan_spreads=np.zeros((n, m), dtype=bool))
