"""torch-wavelet-kan: several Morlet wavelets per edge, and a SiLU branch.

Source: PyPI torch-wavelet-kan 0.0.2, WaveletKANLayer.forward, for n inputs, m outputs:

    y_j = sum_i W_ji silu(x_i) + sum_i sum_k w_jik cos(5 u) exp(-u^2 / 2),
    u = (x_i - mu_jik) / (scale_jik + epsilon)

with W `base_weight` [m, n], w `wavelet_weights`, `mu` and `scale` [m, n, K]. `epsilon` is a
constructor argument and in no file.

Options: epsilon
"""

from __future__ import annotations

from kanexport.functions import elementwise, wavelets
from kanexport.ir.model import EdgeTerm, Layer
from kanexport.options import Options
from kanexport.readers.common.layer_tensors import Keys, Part, branch, layer_of

FAMILY = "torch-wavelet-kan"
KEYS = Keys(required={"wavelet_weights": 3, "mu": 3, "scale": 3, "base_weight": 2}, optional={})


def layer(part: Part, options: Options) -> Layer:
    """One WaveletKANLayer. Raises InvalidKan or OptionError."""
    m, n, functions = part.shape("wavelet_weights")
    weights, centres, widths = (part.tensor(key, m, n, functions) for key in ("wavelet_weights", "mu", "scale"))
    epsilon = options.number("epsilon", "1e-5")
    waves = EdgeTerm(
        wavelets.WAVELETS["morlet"],
        centre=centres.transpose(1, 0, 2),
        rate=wavelets.rates(widths + epsilon),
        coef=weights.transpose(1, 0, 2),
    )
    return layer_of(waves, branch(elementwise.activation("silu"), part.tensor("base_weight", m, n)))
