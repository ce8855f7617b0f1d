"""Basis_Functions: eighteen collections of polynomials and similar functions, identified by the name of the
coefficients.

Source: seydi1370/Basis_Functions, <Kind>KANLayer.forward, for n inputs, m outputs, degree D:

    y_j = sum_i sum_d C[i, j, d] P_d(u_i)

with u sigmoid(x), tanh(x) or x itself; the formulas and which u is whose are in
`bases/recurrence.py` and `bases/fermat.py`. Constants of some are trained and in the file; Charlier's
a is not, and 1 by default.

hoangthangta/BSRBF_KAN and FC_KAN (GottliebKANLayer) add a LayerNorm after Gottlieb's layer, `layernorm`, which
every layer stores and which their network uses in all but the last.

Options: charlier_a, layernorm, layernorm_eps
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from kanexport.bases import Basis, recurrence
from kanexport.bases.fermat import Fermat
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import chain, module_kinds
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Keys, Part, layer_of

Make = Callable[[int, Part, Options], Basis]  # from the degree, what else the file holds, and the options

NORMS = ("all but the last", "all", "none")
CHARLIER = ("1.0", "0.5", "2.0", "3.0")


def _layer(name: str, make: Make, part: Part, options: Options) -> Layer:
    """One layer with coefficients of that name. Raises InvalidKan or OptionError."""
    coef = part.tensor(name, None, None, None)
    post_steps: tuple[Step, ...] = ()
    if part.has("layernorm.weight"):  # of BSRBF_KAN, whose network does not use the one of the last layer
        used = options.choice(
            "layernorm", NORMS, NORMS[0], words="every layer stores one; the file does not record which layers use it"
        )
        same = chain.prefixes(part.tensors, Keys({name: 3}, {}), options.optional("prefix") or "")
        if used == NORMS[1] or (used == NORMS[0] and part.prefix != same[-1]):
            post_steps = module_kinds.layer_norm(part.inside("layernorm"), options, coef.shape[1])
    return layer_of(BasisTerm(make(coef.shape[2] - 1, part, options), coef), post_steps=post_steps)


def _trained(make: Callable[..., Basis], *names: str) -> Make:
    """`names`: trained constants [1]."""
    return lambda degree, part, options: make(degree, *(float(part.tensor(name, 1)[0]) for name in names))


def _plain(make: Callable[[int], Basis]) -> Make:
    return lambda degree, part, options: make(degree)


def _charlier(degree: int, part: Part, options: Options) -> Basis:
    return recurrence.charlier(degree, options.number("charlier_a", "1.0", among=CHARLIER))


def _boas_buck(degree: int, part: Part, options: Options) -> Basis:
    return recurrence.boas_buck(degree, part.tensor("a", degree + 1), part.tensor("b", degree + 1))


def _kind(family: str, name: str, make: Make, *more: str, optional: dict[str, int] | None = None) -> LayerKind:
    """`more`: additional tensors of one axis in a layer."""
    keys = Keys({name: 3} | dict.fromkeys(more, 1), optional or {})
    return LayerKind(family, keys, functools.partial(_layer, name, make))


FAMILIES = (
    _kind(
        "gottliebkan",
        "gottlieb_coeffs",
        _trained(recurrence.gottlieb, "alpha"),
        "alpha",
        optional={"layernorm.weight": 1, "layernorm.bias": 1},
    ),
    _kind("boubakerkan", "boubaker_coeffs", _plain(recurrence.boubaker)),
    _kind("charlierkan", "charlier_coeffs", _charlier),
    _kind("fermatkan", "fermat_coeffs", _plain(Fermat)),
    _kind("vietapellkan", "vp_coeffs", _plain(recurrence.vieta_pell)),
    _kind("narayanakan", "narayana_coeffs", _plain(recurrence.narayana)),
    _kind("padokan", "pado_coeffs", _plain(recurrence.padovan)),
    _kind("tribokan", "tribo_coeffs", _plain(functools.partial(recurrence.nacci, "tribonacci"))),
    *(
        _kind(f"{name}kan", f"{name}_coeffs", _plain(functools.partial(recurrence.nacci, name)))
        for name in ("tetranacci", "pentanacci", "hexanacci", "heptanacci", "octanacci")
    ),
    _kind("alsalamcarlitzkan", "al_salam_carlitz_coeffs", _trained(recurrence.al_salam_carlitz, "a", "q"), "a", "q"),
    _kind("bannaiitokan", "bannai_ito_coeffs", _trained(recurrence.bannai_ito, "a", "b", "c"), "a", "b", "c"),
    _kind("boasbuckkan", "boas_buck_coeffs", _boas_buck, "a", "b"),
    _kind(
        "meixnerpollaczekkan",
        "meixner_pollaczek_coeffs",
        _trained(recurrence.meixner_pollaczek, "lambda_", "phi"),
        "lambda_",
        "phi",
    ),
    _kind("askeywilsonkan", "askey_wilson_coeffs", _trained(recurrence.askey_wilson, *"abcdq"), *"abcdq"),
)
