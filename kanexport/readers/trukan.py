"""TruKAN: a polynomial and truncated powers on every edge.

Source: alibayeh/trukan, TruKanLayer.forward, for n inputs, m outputs, degree d and N knots:

    y_j = sum_i (sum_p a_ijp x_i^p + sum_k c_ijk (x_i - t_ik)+^d) + b_j,   p = 0 .. d

with a and then c in `coeffs` [n, m, d + 1 + N] and b `bias_out` [m]. The knots t are `fixed_knots`
[n, N], or with learn_knots made of `raw_knots` [n, N]: s = softplus(raw) + 1e-8, and

    t_ik = low + (high - low) (s_i1 + .. + s_ik) / (s_i1 + .. + s_iN)

where low and high (`knots_range`) are Python numbers and in no file, by default -1 and 1. The
functions are computed cell by cell (bases/piecewise_polynomial.py), not as truncated powers. With
shared_knots=False every edge has knots of its own; those are read where they are equal.

Options: knots_min, knots_max
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.piecewise_polynomial import LocalPowers
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.options import Options
from kanexport.readers.common import grid_steps
from kanexport.readers.common.layer_tensors import Array, Keys, Part, layer_of

FAMILY = "trukan"
KEYS = Keys(
    required={"coeffs": 3, "bias_out": 1},
    optional={"fixed_knots": 2, "raw_knots": 2, "exponents": 1},
)
EPSILON = 1e-8  # of the constructor


def fits(part: Part) -> bool:
    """Whether the layer has knots of one of the two kinds."""
    return part.has("fixed_knots") or part.has("raw_knots")


def layer(part: Part, options: Options) -> Layer:
    """One TruKanLayer. Raises InvalidKan or OptionError."""
    n, m, count = part.shape("coeffs")
    coeffs = part.tensor("coeffs", n, m, count)
    knots = _knots(part, options, n, m)
    degree = count - 1 - knots.shape[1]
    if degree < 1:
        raise InvalidKan(
            f"coeffs has {count} functions for {knots.shape[1]} knots, expected degree + 1 more, at least 2",
            code="tensors-inconsistent",
            hint=USE_MODULE,
        )
    if part.has("exponents") and not np.array_equal(part.tensor("exponents", None), np.arange(degree + 1)):
        raise InvalidKan(
            f"exponents do not count from 0 to {degree}, expected from coeffs and the knots",
            code="tensors-inconsistent",
            hint=USE_MODULE,
        )
    basis = LocalPowers(knots, degree)
    powers, truncated = coeffs[:, :, : degree + 1], coeffs[:, :, degree + 1 :]
    return layer_of(BasisTerm(basis, basis.coefficients(powers, truncated)), bias=part.tensor("bias_out", m))


def _knots(part: Part, options: Options, n: int, m: int) -> Array:
    """[n, N]. Raises InvalidKan, and OptionError for an invalid range."""
    name = "fixed_knots" if part.has("fixed_knots") else "raw_knots"
    if len(part.shape(name)) == 3:
        every = part.tensor(name, n, m, None)
        if not (every == every[:, :1]).all():
            raise InvalidKan(
                f"{name} has different knots for the edges of one source, which is not supported",
                code="layer-unsupported",
                hint=USE_MODULE,
            )
        knots = every[:, 0]
    else:
        knots = part.tensor(name, n, None)
    if name == "fixed_knots":
        return knots
    low, high = grid_steps.ends(options, "knots", "-1.0", ("0.0",))
    grown = np.cumsum(np.logaddexp(0, knots) + EPSILON, axis=1)
    return np.asarray(low + (high - low) * (grown / np.maximum(grown[:, -1:], EPSILON)))
