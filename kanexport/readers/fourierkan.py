"""FourierKAN: Fourier series of the raw inputs. The layers of GraphKAN have the same keys.

Source: GistNoesis/FourierKAN, NaiveFourierKANLayer.forward, for n inputs, m outputs, K harmonics:

    y_j = sum_i sum_{q=1..K} F[0, j, i, q] cos(q x_i) + F[1, j, i, q] sin(q x_i) + bias_j

The bias is absent with addbias=False. The library's first version counts q from 0 to K - 1, which no
file tells: forward=first-version. KAN4TSF's, FR-KAN's and X-KANeRF's layers are the same. Copies
multiply every angle by 2 pi or another number, which no file tells: the option fourier_step.

Muyuzhierchengse/TaylorKAN has a copy with `gridsize_param`, a number that is rounded: only so many
harmonics are used.

Options: forward, fourier_step
"""

from __future__ import annotations

import math

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.fourier import Fourier
from kanexport.bases.sine import Sine
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common.layer_tensors import Keys, Part, layer_of

FAMILY = "fourierkan"
KEYS = Keys(required={"fouriercoeffs": 4}, optional={"bias": 2, "gridsize_param": 0})
RIVALS = {"first-version": "the first version of the library, with harmonics that count from 0"}
STEPS = ("1.0", repr(2 * math.pi), repr(math.pi), "0.5", "2.0")  # of copies


def layer(part: Part, options: Options) -> Layer:
    """One NaiveFourierKANLayer. Raises InvalidKan or OptionError."""
    stored = part.tensor("fouriercoeffs", 2, None, None, None)
    if part.has("gridsize_param"):  # of a copy, with a trained number of harmonics
        count = np.round(max(float(part.tensor("gridsize_param")), 1.0))  # half to even, as torch rounds
        if not count <= stored.shape[3]:
            raise InvalidKan(
                f"gridsize_param selects {count:g} harmonics, expected at most {stored.shape[3]}",
                code="tensors-inconsistent",
                hint=USE_MODULE,
            )
        stored = stored[..., : int(count)]
    _, m, n, harmonics = stored.shape
    coef = stored.transpose(2, 1, 0, 3).reshape(n, m, 2 * harmonics)  # cosines first
    first = options.forward(FAMILY, RIVALS) == "first-version"
    step = options.number("fourier_step", STEPS[0], among=STEPS)
    basis: Basis = Fourier(harmonics)
    if step != 1 or first:  # a cosine is a sine with a phase of 90 degrees
        frequencies = step * np.tile(np.arange(float(not first), harmonics + float(not first)), 2)
        phases = np.repeat([math.pi / 2, 0.0], harmonics)
        basis = Sine(frequencies, np.tile(phases[:, None], n))
    return layer_of(BasisTerm(basis, coef), bias=part.optional("bias", 1, m))
