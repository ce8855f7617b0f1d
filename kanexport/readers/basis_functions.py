"""Basis_Functions: eighteen collections of polynomials and similar functions, identified by the coefficients' name.

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
from kanexport.ir.model import Layer
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import chain, grid_steps
from kanexport.readers.common.chain import LayerKind
from kanexport.readers.common.layer_tensors import Array, Keys, Part

Make = Callable[[int, Part, Options], Basis]  # from the degree, what else the file holds, and the options

NORMS = ("all but the last", "all", "none")
CHARLIER = ("1.0", "0.5", "2.0", "3.0")


def _layer(name: str, make: Make, part: Part, options: Options) -> Layer:
    """One layer with coefficients of that name. Raises InvalidKan or OptionError."""
    coef = part.tensor(name, None, None, None)
    post_steps: tuple[Step, ...] = ()
    if part.has("layernorm.weight"):
        post_steps = _norm(name, part, options, coef.shape[1])
    return grid_steps.layer(make(coef.shape[2] - 1, part, options), coef, post_steps=post_steps)


def _norm(name: str, part: Part, options: Options, width: int) -> tuple[Step, ...]:
    """BSRBF_KAN's LayerNorm, which its network leaves out after the last layer."""
    used = options.choice("layernorm", NORMS, NORMS[0], words="every layer stores one, and no file tells which use it")
    same = chain.prefixes(part.tensors, Keys({name: 3}, {}), options.optional("prefix") or "")
    if used == "none" or (used == NORMS[0] and part.prefix == same[-1]):
        return ()
    return (chain.norm(Part(part.tensors, part.prefix + "layernorm."), options, "layernorm", width),)


def _numbers(*names: str) -> Callable[[Part], list[float]]:
    """Trained constants [1] by their names."""
    return lambda part: [float(part.tensor(name, 1)[0]) for name in names]


def _trained(make: Callable[..., Basis], *names: str) -> Make:
    return lambda degree, part, options: make(degree, *_numbers(*names)(part))


def _plain(make: Callable[[int], Basis]) -> Make:
    return lambda degree, part, options: make(degree)


def _nacci(kind: str) -> Make:
    return lambda degree, part, options: recurrence.nacci(kind, degree)


def _charlier(degree: int, part: Part, options: Options) -> Basis:
    return recurrence.charlier(degree, options.number("charlier_a", "1.0", among=CHARLIER))


def _boas_buck(degree: int, part: Part, options: Options) -> Basis:
    a, b = _pair(part, degree + 1)
    return recurrence.boas_buck(degree, a, b)


def _pair(part: Part, count: int) -> tuple[Array, Array]:
    return part.tensor("a", count), part.tensor("b", count)


def _kind(family: str, name: str, make: Make, *more: str, optional: dict[str, int] | None = None) -> LayerKind:
    """`more`: tensors of one axis that a layer has as well."""
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
    _kind("tribokan", "tribo_coeffs", _nacci("tribonacci")),
    _kind("tetranaccikan", "tetranacci_coeffs", _nacci("tetranacci")),
    _kind("pentanaccikan", "pentanacci_coeffs", _nacci("pentanacci")),
    _kind("hexanaccikan", "hexanacci_coeffs", _nacci("hexanacci")),
    _kind("heptanaccikan", "heptanacci_coeffs", _nacci("heptanacci")),
    _kind("octanaccikan", "octanacci_coeffs", _nacci("octanacci")),
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
