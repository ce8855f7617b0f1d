"""torch-conv-kan: the layers of its fully connected networks, in kans/layers.py.

Source: IvanDrokin/torch-conv-kan, commit 7a0e83c, for n inputs, m outputs:

    y = act( LayerNorm( sum_i W_ji act(x_i) + sum_i sum_d C_ijd P_d(x_i) ) )

    KALNLayer        Legendre of x scaled by the range of the batch: read with frozen ranges
    GRAMLayer        act(Gram polynomials of tanh x), with trained constants
    JacobiKANLayer   P^(a, b) of tanh x
    BernsteinKANLayer  de Casteljau's scheme on ones: every function is 1, C a constant
    KANLayer         B-splines, and PReLU in place of the last act; its grid is in no file

act is SiLU, GELU in KANLayer. Layers are in a list with Dropouts, which have no weights;
where those leave gaps in the numbers, --architecture is needed. The ChebyKANLayer and
FastKANLayer are those of ChebyKAN and FastKAN. BottleNeckGRAMLayer projects its sources
first, so that its polynomials are on no edge: it is refused.

Options: base_activation, x_min, x_max, jacobi_a, jacobi_b, spline_order, grid_min, grid_max, layernorm_eps
"""

from __future__ import annotations

import numpy as np

from kanexport.bases import Basis, polynomial
from kanexport.bases.bspline import BSpline
from kanexport.bases.polynomial import Polynomial
from kanexport.errors import USE_MODULE, InvalidKan, OptionError
from kanexport.functions.domain_maps import frozen
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Elementwise
from kanexport.options import Options
from kanexport.readers.common import chain, module_kinds
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Array, Keys, Part, activation, branch, layer_of


def kaln(part: Part, options: Options) -> Layer:
    """One KALNLayer. Raises InvalidKan or OptionError."""
    m, n = part.tensor("base_weight", None, None).shape
    coef = flat_coefficients(part, "poly_weight", m, n)
    root = options.optional("prefix") or ""
    layers = [prefix for prefix in chain.prefixes(part.tensors, KALN) if prefix.startswith(root)]
    if part.prefix not in layers:  # a step of --architecture has a prefix of its own
        layers = [part.prefix]
    basis = polynomial.legendre(coef.shape[2] - 1, frozen(options, layers.index(part.prefix), len(layers)))
    return normed_layer(part, options, ("base_weight", "layer_norm"), basis, coef, "silu")


def kagn(part: Part, options: Options) -> Layer:
    """One GRAMLayer. Raises InvalidKan or OptionError."""
    if part.has("inner_proj.weight"):
        raise InvalidKan(
            "a BottleNeckGRAMLayer projects its sources first, so its polynomials are not functions of edges",
            code="layer-unsupported",
            hint=USE_MODULE,
        )
    coef = part.tensor("grams_basis_weights", None, None, None)
    basis = polynomial.gram(part.tensor("beta_weights", coef.shape[2]), activation(options, "silu"))
    return normed_layer(part, options, ("base_weights", "norm"), basis, coef, "silu")


def kajn(part: Part, options: Options) -> Layer:
    """One JacobiKANLayer. Raises InvalidKan or OptionError."""
    coef = part.tensor("jacobi_coeffs", None, None, None)
    a, b = options.number("jacobi_a", "1.0"), options.number("jacobi_b", "1.0")
    return normed_layer(
        part, options, ("base_weights", "norm"), polynomial.jacobi(coef.shape[2] - 1, a, b), coef, "silu"
    )


def kabn(part: Part, options: Options) -> Layer:
    """One BernsteinKANLayer. Raises InvalidKan or OptionError."""
    coef = part.tensor("bernstein_coeffs", None, None, None)
    with np.errstate(over="ignore", invalid="ignore"):  # the layer refuses what is not finite
        total = coef.sum(axis=2, keepdims=True)
    return normed_layer(
        part, options, ("base_weights", "norm"), Polynomial("constant", np.zeros((0, 3))), total, "silu"
    )


def spline(part: Part, options: Options) -> Layer:
    """One KANLayer. Raises InvalidKan or OptionError."""
    m, n, functions = part.tensor("spline_weight", None, None, None).shape
    k = options.integer("spline_order", at_least=1)
    if k is None:
        k = 3
        options.assume("spline_order", "3")
    if functions <= k:
        raise OptionError(
            f"option spline_order is {k}, expected less than the {functions} functions of a layer",
            code="option-does-not-fit-weights",
            hint="pass a smaller --option spline_order",
        )
    low, high = options.number("grid_min", "-1.0"), options.number("grid_max", "1.0")
    # The library rounds its knots to float32, in a way that depends on the processor.
    with np.errstate(all="ignore"):  # the basis refuses what is not finite
        step = (high - low) / (functions - k)
        knots = np.linspace(low - step * k, high + step * k, functions + k + 1)
    coef = part.tensor("spline_weight", m, n, functions).transpose(1, 0, 2)
    basis = BSpline(np.tile(knots, (n, 1)), k)
    return normed_layer(part, options, ("base_weight", "layer_norm"), basis, coef, "gelu", "prelu")


def normed_layer(
    part: Part,
    options: Options,
    names: tuple[str, str],  # of the base weights and of the normalization
    basis: Basis,
    coef: Array,
    default: str,
    prelu: str = "",
) -> Layer:
    """The layer of functions with coefficients [I, O, K] and of a base branch, which a LayerNorm and the activation
    follow, or the PReLU under the name `prelu`. `default`: the usual activation. Raises InvalidKan or OptionError."""
    n, m, _ = coef.shape
    function = activation(options, default)
    last = module_kinds.step(part.inside(prelu), options, "prelu", m) if prelu else Elementwise(function)
    return layer_of(
        BasisTerm(basis, coef),
        branch(function, part.tensor(names[0], m, n)),
        # The basis of a non-finite value is NaN there, and its product reaches every sum.
        nan_spreads=isinstance(basis, BSpline),
        post_steps=(*module_kinds.layer_norm(part.inside(names[1]), options, m), last),
    )


def flat_coefficients(part: Part, name: str, m: int, n: int) -> Array:
    """[I, O, K] of the weights [O, I * K] of polynomials. Raises InvalidKan."""
    count = max(1, part.tensor(name, m, None).shape[1] // n)
    return part.tensor(name, m, n * count).reshape(m, n, count).transpose(1, 0, 2)


def _keys(
    names: dict[str, int], norm: str, optional: dict[str, int] | None = None, absent: tuple[str, ...] = ()
) -> Keys:
    return Keys(names | {f"{norm}.weight": 1, f"{norm}.bias": 1}, optional or {}, absent)


KALN = _keys({"poly_weight": 2, "base_weight": 2}, "layer_norm")
PROJECTIONS = {
    f"{side}_proj.{name}": ndim for side in ("inner", "outer") for name, ndim in (("weight", 2), ("bias", 1))
}
FAMILIES: tuple[LayerKind, ...] = (
    LayerKind("kaln", KALN, kaln),
    LayerKind(
        "kagn", _keys({"grams_basis_weights": 3, "beta_weights": 1, "base_weights": 2}, "norm", PROJECTIONS), kagn
    ),
    LayerKind("kajn", _keys({"jacobi_coeffs": 3, "base_weights": 2}, "norm"), kajn),
    LayerKind("kabn", _keys({"bernstein_coeffs": 3, "base_weights": 2}, "norm"), kabn),
    LayerKind(
        "torch-conv-kan",
        _keys({"spline_weight": 3, "base_weight": 2, "prelu.weight": 1}, "layer_norm", absent=("grid",)),
        spline,
    ),
)
