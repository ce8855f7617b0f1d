"""ikan: layers of several libraries with a base branch and a bias, and with their axes in another order.

Source: lgy112112/ikan (PyPI ikan), <Kind>KANLinear.forward, for n inputs, m outputs:

    y_j = sum_i W_ji act(x_i) + sum_i sum_c C[j, i, c] f_c(x_i) + bias_j

with W `base_weight` [m, n]; act is SiLU by default and in no file; the bias is absent with use_bias=False.
The functions f are told by the name of their coefficients:

    cheby_coeffs     cos(c acos(u)), u = tanh(x cut off at -1 and 1); versions 0.x and copies have u = tanh(x)
    jacobi_coeffs    a recurrence of its own of tanh(x), `bases/polynomial.py`; a and b are 1 by default
    taylor_coeffs    x^c
    fourier_coeffs   [2, m, n, K]: cos(q x) and sin(q x), q = 1 .. K
    wavelet_weights  a wavelet with `scale` and `translation`, all [m, n]; which one is in no file; the
                     Mexican hat without its constant, the Shannon wavelet with Wav-KAN's window

Options: forward, base_activation, jacobi_a, jacobi_b, wavelet_type
"""

from __future__ import annotations

from kanexport.bases import polynomial, recurrence
from kanexport.bases.fourier import Fourier
from kanexport.functions import wavelets
from kanexport.functions.domain_maps import Clip, Tanh, TanhOf
from kanexport.ir.model import BasisTerm, Layer, Term
from kanexport.options import Options
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Keys, Part, activation, branch, layer_of, one_wavelet

NUMBERS = ("1.0", "0.0", "0.5", "-0.5", "2.0", "3.0")  # a and b in published models
WAVELETS = ("mexican_hat", "morlet", "dog", "meyer", "shannon")


def cheby(part: Part, options: Options) -> Layer:
    """One ChebyKANLinear. Raises InvalidKan or OptionError."""
    coef = part.tensor("cheby_coeffs", None, None, None).transpose(1, 0, 2)
    if part.has("cheby_orders"):
        part.tensor("cheby_orders", coef.shape[2])
    whose = options.forward("ikan-cheby", {"tanh": "ikan 0.x and copies, which do not clamp x"})
    squash = Tanh() if whose == "tanh" else TanhOf(Clip())
    return _layer(part, options, BasisTerm(polynomial.chebyshev(coef.shape[2] - 1, squash), coef))


def jacobi(part: Part, options: Options) -> Layer:
    """One JacobiKANLinear. Raises InvalidKan or OptionError."""
    coef = part.tensor("jacobi_coeffs", None, None, None).transpose(1, 0, 2)
    whose = options.forward(
        "ikan-jacobi", {"ahead": "the first version of ikan, with a recurrence that is one index ahead"}
    )
    a, b = (options.number(f"jacobi_{name}", "1.0", among=NUMBERS) for name in "ab")
    basis = polynomial.jacobi_ikan(coef.shape[2] - 1, a, b, ahead=int(whose == "ahead"))
    return _layer(part, options, BasisTerm(basis, coef))


def taylor(part: Part, options: Options) -> Layer:
    """One TaylorKANLinear. Raises InvalidKan or OptionError."""
    coef = part.tensor("taylor_coeffs", None, None, None).transpose(1, 0, 2)
    return _layer(part, options, BasisTerm(recurrence.monomials(coef.shape[2] - 1), coef))


def fourier(part: Part, options: Options) -> Layer:
    """One FourierKANLinear. Raises InvalidKan or OptionError."""
    stored = part.tensor("fourier_coeffs", 2, None, None, None)
    _, m, n, harmonics = stored.shape
    coef = stored.transpose(2, 1, 0, 3).reshape(n, m, 2 * harmonics)  # cosines first
    return _layer(part, options, BasisTerm(Fourier(harmonics), coef))


def wavelet(part: Part, options: Options) -> Layer:
    """One WaveletKANLinear. Raises InvalidKan or OptionError."""
    m, n = part.shape("wavelet_weights")
    kind = wavelets.WAVELETS[options.choice("wavelet_type", WAVELETS, "mexican_hat")]
    weights = part.tensor("wavelet_weights", m, n)
    if kind.name == "mexican_hat":
        weights = weights / wavelets.HAT_HEIGHT
    return _layer(part, options, one_wavelet(part, kind, weights))


def _layer(part: Part, options: Options, term: Term) -> Layer:
    """A term, the base branch, and the bias."""
    n, m, _ = term.coef.shape
    base = branch(activation(options, "silu"), part.tensor("base_weight", m, n))
    return layer_of(term, base, bias=part.optional("bias", m))


def _keys(name: str, axes: int = 3, **optional: int) -> Keys:
    return Keys({name: axes, "base_weight": 2}, {"bias": 1, **optional})


FAMILIES = (
    LayerKind("ikan-cheby", _keys("cheby_coeffs", cheby_orders=1), cheby),
    LayerKind("ikan-jacobi", _keys("jacobi_coeffs"), jacobi),
    LayerKind("ikan-taylor", _keys("taylor_coeffs"), taylor),
    LayerKind("ikan-fourier", _keys("fourier_coeffs", 4), fourier),
    LayerKind(
        "ikan-wavelet",
        Keys({"wavelet_weights": 2, "scale": 2, "translation": 2, "base_weight": 2}, {"bias": 1}),
        wavelet,
    ),
)
