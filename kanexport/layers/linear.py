"""torch.nn.Linear as a KAN layer: its edges are straight lines."""

from __future__ import annotations

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.form.ir import BasisTerm, Layer
from kanexport.functions import unary
from kanexport.layers.parts import Part


def linear_layer(part: Part) -> Layer:
    """The layer of edges W_ji x_i, with the weight W [O, I] and the bias [O], if there is one,
    under the part's prefix. Raises InvalidKan."""
    weight = part.tensor("weight", None, None)
    m, n = weight.shape
    return Layer(
        terms=(BasisTerm(Activation(unary.activation("identity")), weight.T[:, :, None]),),
        mask=np.ones((n, m)),
        bias=part.tensor("bias", m) if part.has("bias") else np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
    )
