"""KAF: Fourier features of the whole row and a base branch, then a Linear.

Source: kolmogorovArnoldFourierNetwork/KAF, KAF.py, FastKAFLayer.forward, for n inputs and m outputs:

    y_j = sum_i W_ji (a act(x_i) + c s_i(LayerNorm(x))) + b_j
    s(h) = [cos(h P + p), sin(h P + p)] C^T + q

with W, b `final_linear`, a `base_scale`, c `spline_scale`, P [n, G] and p [G] `feature_transform.weight`
and `.bias`, C [n, 2 G] and q [n] `feature_transform.combination`. `base_activation` is a function, GELU by
default. s_i depends on all inputs: an edge has a value for a row, and no curve over x_i.

Options: base_activation, layernorm, layernorm_eps
Edge classes: B
"""

from __future__ import annotations

import numpy as np

from kanexport.functions import elementwise
from kanexport.ir.model import Layer
from kanexport.ir.steps import FourierFeatures, Step
from kanexport.options import Options
from kanexport.readers.common import module_kinds
from kanexport.readers.common.layer_tensors import Keys, Part, activation, branch, layer_of, product

FAMILY = "kaf"
FEATURES = "feature_transform."
KEYS = Keys(
    required={
        "final_linear.weight": 2,
        "base_scale": 0,
        "spline_scale": 0,
        FEATURES + "weight": 2,
        FEATURES + "bias": 1,
        FEATURES + "combination.weight": 2,
    },
    optional={
        "final_linear.bias": 1,
        FEATURES + "combination.bias": 1,
        "layernorm.weight": 1,
        "layernorm.bias": 1,
    },
)


def layer(part: Part, options: Options) -> Layer:
    """One FastKAFLayer. Raises InvalidKan or OptionError."""
    weight = part.tensor("final_linear.weight", None, None)
    m, n = weight.shape
    base = branch(activation(options, "gelu"), product(weight, part.tensor("base_scale")))
    edges = product(weight, part.tensor("spline_scale"))
    norm: tuple[Step, ...] = ()
    if part.has("layernorm.weight") and options.choice("layernorm", ("used", "unused"), "used") == "used":
        norm = module_kinds.layer_norm(part.inside("layernorm"), options, n)
    projection = part.tensor(FEATURES + "weight", n, None)
    count = projection.shape[1]
    shift = part.optional(FEATURES + "combination.bias", n)
    features = FourierFeatures(
        projection,
        part.tensor(FEATURES + "bias", count),
        part.tensor(FEATURES + "combination.weight", n, 2 * count).T,
        np.zeros(n) if shift is None else shift,
    )
    return layer_of(
        base,
        branch(elementwise.activation("identity"), edges, (*norm, features)),
        bias=part.optional("final_linear.bias", m),
    )
