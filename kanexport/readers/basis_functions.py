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

Make = Callable[..., Basis]  # from the degree, and the constants

NORMS = ("all but the last", "all", "none")
NORM = {"layernorm.weight": 1, "layernorm.bias": 1}
CHARLIER = ("1.0", "0.5", "2.0", "3.0")


def _layer(name: str, make: Make, trained: tuple[str, ...], part: Part, options: Options) -> Layer:
    """One layer with coefficients of that name. `trained`: its constants. Raises InvalidKan or OptionError."""
    coef = part.tensor(name, None, None, None)
    degree = coef.shape[2] - 1
    post_steps: tuple[Step, ...] = ()
    if part.has("layernorm.weight"):  # of BSRBF_KAN, whose network does not use the one of the last layer
        used = options.choice(
            "layernorm", NORMS, NORMS[0], words="every layer stores one; the file does not record which layers use it"
        )
        same = chain.prefixes(part.tensors, Keys({name: 3}, {}), options.optional("prefix") or "")
        if used == NORMS[1] or (used == NORMS[0] and part.prefix != same[-1]):
            post_steps = module_kinds.layer_norm(part.inside("layernorm"), options, coef.shape[1])
    basis: Basis
    if make is recurrence.charlier:
        basis = make(degree, options.number("charlier_a", "1.0", among=CHARLIER))
    elif make is recurrence.boas_buck:
        basis = make(degree, *(part.tensor(key, degree + 1) for key in trained))
    else:
        basis = make(degree, *(float(part.tensor(key, 1)[0]) for key in trained))
    return layer_of(BasisTerm(basis, coef), post_steps=post_steps)


def _kind(family: str, name: str, make: Make, *trained: str, optional: dict[str, int] | None = None) -> LayerKind:
    """`trained`: the constants of a layer, tensors of one axis."""
    keys = Keys({name: 3} | dict.fromkeys(trained, 1), optional or {})
    return LayerKind(family, keys, functools.partial(_layer, name, make, trained))


FAMILIES = (
    _kind("gottliebkan", "gottlieb_coeffs", recurrence.gottlieb, "alpha", optional=NORM),
    _kind("boubakerkan", "boubaker_coeffs", recurrence.boubaker),
    _kind("charlierkan", "charlier_coeffs", recurrence.charlier),
    _kind("fermatkan", "fermat_coeffs", Fermat),
    _kind("vietapellkan", "vp_coeffs", recurrence.vieta_pell),
    _kind("narayanakan", "narayana_coeffs", recurrence.narayana),
    _kind("padokan", "pado_coeffs", recurrence.padovan),
    _kind("tribokan", "tribo_coeffs", functools.partial(recurrence.nacci, "tribonacci")),
    *(
        _kind(f"{name}kan", f"{name}_coeffs", functools.partial(recurrence.nacci, name))
        for name in ("tetranacci", "pentanacci", "hexanacci", "heptanacci", "octanacci")
    ),
    _kind("alsalamcarlitzkan", "al_salam_carlitz_coeffs", recurrence.al_salam_carlitz, "a", "q"),
    _kind("bannaiitokan", "bannai_ito_coeffs", recurrence.bannai_ito, "a", "b", "c"),
    _kind("boasbuckkan", "boas_buck_coeffs", recurrence.boas_buck, "a", "b"),
    _kind("meixnerpollaczekkan", "meixner_pollaczek_coeffs", recurrence.meixner_pollaczek, "lambda_", "phi"),
    _kind("askeywilsonkan", "askey_wilson_coeffs", recurrence.askey_wilson, *"abcdq"),
)
