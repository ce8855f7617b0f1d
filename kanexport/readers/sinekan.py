"""SineKAN: sines of trained frequencies, with phases fixed for each input.

Source: ereinha/SineKAN, SineKANLayer.forward, for n inputs, m outputs, K frequencies:

    y_j = sum_i sum_q A[j, i, q] sin(w_q x_i + p_iq) + bias_j

with w `freq` [1, 1, 1, K] and p `phase` [1, 1, n, K], a buffer. The bias is absent with
add_bias=False. Before frequencies were trained they were 1, and A was `base_fouriercoeffs`.
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.sine import Sine
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common.layer_tensors import Keys, Part, layer_of

FAMILY = "sinekan"
KEYS = Keys(required={"phase": 4}, optional={"amplitudes": 3, "freq": 4, "base_fouriercoeffs": 3, "bias": 2})


def fits(part: Part) -> bool:
    """Whether it has amplitudes and frequencies, or the older name and no frequencies."""
    return part.has("amplitudes") == part.has("freq") != part.has("base_fouriercoeffs")


def layer(part: Part, options: Options) -> Layer:
    """One SineKANLayer. Raises InvalidKan."""
    amplitudes = part.tensor("amplitudes" if part.has("amplitudes") else "base_fouriercoeffs", None, None, None)
    m, n, count = amplitudes.shape
    frequencies = part.tensor("freq", 1, 1, 1, count)[0, 0, 0] if part.has("amplitudes") else np.ones(count)
    phases = part.tensor("phase", 1, 1, n, count)[0, 0]
    term = BasisTerm(Sine(frequencies, phases.T), amplitudes.transpose(1, 0, 2))
    return layer_of(term, bias=part.optional("bias", 1, m))
