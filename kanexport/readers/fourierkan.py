"""FourierKAN: Fourier series of the raw inputs. GraphKAN's layers have the same keys.

Source: GistNoesis/FourierKAN, NaiveFourierKANLayer.forward, for n inputs, m outputs, K harmonics:

    y_j = sum_i sum_{q=1..K} F[0, j, i, q] cos(q x_i) + F[1, j, i, q] sin(q x_i) + bias_j

The bias is absent with addbias=False.
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.fourier import Fourier
from kanexport.form.ir import BasisTerm, Layer
from kanexport.layers.parts import Keys, Part
from kanexport.options import Options

FAMILY = "fourierkan"
KEYS = Keys(required={"fouriercoeffs": 4}, optional={"bias": 2})


def layer(part: Part, options: Options) -> Layer:
    """One NaiveFourierKANLayer. Raises InvalidKan."""
    stored = part.tensor("fouriercoeffs", 2, None, None, None)
    _, m, n, harmonics = stored.shape
    coef = stored.transpose(2, 1, 0, 3).reshape(n, m, 2 * harmonics)  # cosines first
    return Layer(
        (BasisTerm(Fourier(harmonics), coef),),
        mask=np.ones((n, m)),
        bias=part.tensor("bias", 1, m)[0] if part.has("bias") else np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
    )
