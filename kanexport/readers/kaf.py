"""KAF: Fourier features of the whole row beside a base branch, then a Linear.

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

from kanexport.bases.activation import Activation
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.norms import FourierFeatures
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import chain, layer_tensors
from kanexport.readers.common.layer_tensors import Keys, Part, product

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
    activation = Activation(layer_tensors.activation(options, "gelu"))
    edges = weight.T[:, :, None]
    return Layer(
        terms=(
            BasisTerm(activation, product(edges, part.tensor("base_scale"))),
            BasisTerm(
                Activation(elementwise.activation("identity")),
                product(edges, part.tensor("spline_scale")),
                (*_norm(part, options, n), _features(part, n)),
            ),
        ),
        mask=np.ones((n, m)),
        bias=part.tensor("final_linear.bias", m) if part.has("final_linear.bias") else np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
    )


def _norm(part: Part, options: Options, width: int) -> tuple[Step, ...]:
    """The LayerNorm, where there is one and the model's calls use it."""
    if not part.has("layernorm.weight"):
        return ()
    if options.choice("layernorm", ("used", "unused"), "used") == "unused":
        return ()
    return (chain.norm(Part(part.tensors, part.prefix + "layernorm."), options, "layernorm", width),)


def _features(part: Part, n: int) -> FourierFeatures:
    projection = part.tensor(FEATURES + "weight", n, None)
    count = projection.shape[1]
    name = FEATURES + "combination.bias"
    return FourierFeatures(
        projection,
        part.tensor(FEATURES + "bias", count),
        part.tensor(FEATURES + "combination.weight", n, 2 * count).T,
        part.tensor(name, n) if part.has(name) else np.zeros(n),
    )
