"""ChebyKAN: Chebyshev polynomials of tanh(x).

Source: SynodicMonth/ChebyKAN, ChebyKANLayer.forward, for n inputs, m outputs, degree D:

    y_j = sum_i sum_d C[i, j, d] cos(d acos(tanh x_i))

The buffer `arange`, 0 .. D, is in newer files only. torch-conv-kan's KACN, KAN4TSF's and
SpaceLearner's ChebyKANLayer are the same layer. Others write the same tensors and compute something
else, which no file tells; each is a value of the option `forward`:

    timekan        huangst21/TimeKAN, ChebyKANLinear: tanh(tanh(x)) for tanh(x)
    x-kanerf       lif314/X-KANeRF, ChebyKANLayer: tanh(x) no nearer to -1 and 1 than cheby_epsilon
    chebyshev-kan  Vishnu2690/Chebyshev-KAN, first version: x scaled by the smallest and largest of its row
    pinns          DaniilLaptev/pinns, ChebyKAN: s times the layer of x / s, with s cheby_scale
    mean           copies of TimeKAN's with one tanh, and the mean over the sources for their sum
    second-kind    copies with the recurrence of the second kind, 1, 2 u, 2 u P_n - P_{n-1}

and those of `readers/common/grid_steps.py`. Copies with trained `tanh_scale` and `tanh_bias`, one number
each, take tanh(tanh_scale x + tanh_bias), and copies with a `bias` [m] add it; these the file tells. So it does
where a copy normalises inside (`layer_norm`): it gives silu(ChebyKAN's layer of LayerNorm(x)), with SiLU the option
output_activation; some keep tanh(x) no nearer to -1 and 1 than cheby_epsilon.

Options: forward, cheby_epsilon, cheby_scale, squash_eps, output_activation, layernorm_eps
Edge classes: A, B
"""

from __future__ import annotations

import numpy as np

from kanexport.bases import polynomial
from kanexport.bases.polynomial import Polynomial
from kanexport.errors import USE_MODULE, InvalidKan
from kanexport.functions.domain_maps import Raw, Tanh, TanhOf
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Elementwise, RowRange, Step
from kanexport.options import Options
from kanexport.readers.common import grid_steps, module_kinds
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Keys, Part, activation, layer_of

FAMILY, NORMED = "chebykan", "chebykan-norm"
OPTIONAL = {"arange": 1, "tanh_scale": 0, "tanh_bias": 0, "bias": 1}
KEYS = Keys({"cheby_coeffs": 3}, OPTIONAL, absent=("base_weight", "layer_norm.weight"))  # ikan's, and NORMED
NORMED_KEYS = Keys(
    {"cheby_coeffs": 3, "layer_norm.weight": 1, "layer_norm.bias": 1}, {"arange": 1}, absent=("base_weight",)
)
RIVALS = {
    "timekan": "ChebyKANLinear of TimeKAN, which applies tanh twice",
    "x-kanerf": "X-KANeRF, which keeps tanh away from -1 and 1 by cheby_epsilon",
    "chebyshev-kan": "the first version of Chebyshev-KAN, which scales x by the extremes of its row",
    "pinns": "DaniilLaptev/pinns, which multiplies the layer of x / s by s, with s = cheby_scale",
    "mean": "copies that take the mean over the sources",
    "second-kind": "copies with polynomials of the second kind",
}
EPSILONS = ("1e-6", "1e-7", "1e-5", "1e-4", "1e-3", "1e-2")
SCALES = ("2", "5", "10", "100", "0.5")  # with 1 it is ChebyKAN's own


def layer(part: Part, options: Options) -> Layer:
    """One ChebyKANLayer. Raises InvalidKan or OptionError."""
    whose = grid_steps.forward(options, FAMILY, RIVALS, same=("tanh-twice", "tanh-eps"))
    coef = grid_steps.coefficients(part, "cheby_coeffs", whose)
    n, _, functions = coef.shape
    if part.has("arange") and not np.array_equal(part.tensor("arange", functions), np.arange(functions)):
        raise InvalidKan(
            f"arange does not count from 0 to {functions - 1}, the degrees of cheby_coeffs",
            code="tensors-inconsistent",
            hint=USE_MODULE,
        )
    pre_steps: tuple[Step, ...] = ()
    if whose == "chebyshev-kan":
        pre_steps = (RowRange(),)
    if whose == "mean":
        coef = coef / n
    basis, factor = _basis(functions - 1, whose, options)
    if whose == FAMILY and part.has("tanh_scale"):
        shift = float(part.tensor("tanh_bias")) if part.has("tanh_bias") else 0.0
        basis = polynomial.squashed(basis, Tanh(slope=float(part.tensor("tanh_scale")), shift=shift))
    return layer_of(BasisTerm(basis, coef * factor, pre_steps), bias=part.optional("bias", coef.shape[1]))


def normed_layer(part: Part, options: Options) -> Layer:
    """One layer of a copy that normalizes in the layer. Raises InvalidKan or OptionError."""
    coef = part.tensor("cheby_coeffs", None, None, None)
    norm = module_kinds.layer_norm(part.inside("layer_norm"), options, coef.shape[0])
    output = Elementwise(activation(options, "silu", "output_activation"))
    short = options.number("cheby_epsilon", "0.0", among=EPSILONS)
    basis = polynomial.squashed(polynomial.chebyshev(coef.shape[2] - 1), Tanh(short=short))
    return layer_of(BasisTerm(basis, coef, norm), post_steps=(output,))


def _basis(degree: int, whose: str, options: Options) -> tuple[Polynomial, float]:
    """The polynomials, and the factor of the coefficients."""
    basis = polynomial.chebyshev(degree)
    match whose:
        case "timekan":
            return polynomial.squashed(basis, TanhOf(Tanh())), 1.0
        case "x-kanerf":
            return polynomial.squashed(
                basis, Tanh(short=options.number("cheby_epsilon", EPSILONS[0], among=EPSILONS))
            ), 1.0
        case "chebyshev-kan":
            return polynomial.squashed(basis, Raw()), 1.0
        case "pinns":
            scale = options.number("cheby_scale", SCALES[0], among=SCALES)
            if scale == 0:
                raise InvalidKan(
                    "option cheby_scale is 0, expected another number",
                    code="option-out-of-range",
                    hint="pass --option cheby_scale=NUMBER",
                )
            return polynomial.squashed(basis, Tanh(slope=1 / scale)), scale
        case "second-kind":
            return polynomial.chebyshev2(degree), 1.0
    return grid_steps.squashed(basis, whose, options), 1.0


FAMILIES = (LayerKind(FAMILY, KEYS, layer), LayerKind(NORMED, NORMED_KEYS, normed_layer))
