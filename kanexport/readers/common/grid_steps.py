"""Numbers and squashes of bases that files do not record: grid steps, widths, arguments of polynomials.

A grid step is the distance of the points of a uniform grid. Libraries keep it as a Python number, computed from the
range their constructor was given, while the points are stored in float32. A range is nearly always a short decimal
number, so it can be read off the rounded points exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kanexport.bases import polynomial
from kanexport.bases.polynomial import Polynomial
from kanexport.errors import USE_MODULE, InvalidKan, OptionError
from kanexport.functions import elementwise
from kanexport.functions.domain_maps import Bounded, Clip, Raw, Squash, Tanh, TanhOf
from kanexport.options import Options
from kanexport.readers.common.layer_tensors import Array, Part

DECIMAL_LIMIT = 16  # of a range, tried from the fewest on; float64 has no more digits
ORDER = 3  # of the splines that inkan and flashkan have


def between_centres(centres: Array) -> float:
    """(last - first) / (K - 1) of two or more centers [K], with the ends as the user gave them.

    Source: FastKAN's and RBF-KAN's default denominator.
    """
    ends = []
    for end in (float(centres[0]), float(centres[-1])):
        # The shortest decimal number that float32 rounds to the end; itself if it needs more digits than float32 has.
        short = np.isfinite(end) and float(np.float32(end)) == end
        ends.append(float(str(np.float32(end))) if short else end)
    return (ends[1] - ends[0]) / (len(centres) - 1)


def ends(options: Options, name: str, low: str, among: tuple[str, ...]) -> tuple[float, float]:
    """The range from the options `name`_min and `name`_max, from `low` to 1 by default. Raises OptionError."""
    lowest, highest = options.number(f"{name}_min", low, among=among), options.number(f"{name}_max", "1.0")
    if not lowest < highest:
        raise OptionError(
            f"option {name}_min is {lowest} and {name}_max {highest}, expected {name}_min < {name}_max",
            code="option-out-of-range",
            hint=f"pass --option {name}_min=LOW --option {name}_max=HIGH",
        )
    return lowest, highest


WIDTHS = ("1.0",)  # of Gaussians in published layers, beside the centres' spacing: X-KANeRF's GRBFKANLayer
SECANT_WIDTHS = ("0.33", "0.5", "1.0", "2.0")  # of squared secants; the first FasterKAN's default first


def denominator(centres: Array, options: Options) -> float:
    """The width of the Gaussians around centers [K]. The file does not record it; the default is the spacing of the
    centers. Raises OptionError for a single center."""
    if len(centres) > 1:
        return options.number("denominator", repr(between_centres(centres)), among=WIDTHS)
    if options.optional("denominator") is None:
        raise OptionError(
            "the denominator of the Gaussians is not recorded, and a single center has no spacing",
            code="option-not-derivable",
            hint="pass --option denominator=NUMBER",
        )
    return options.number("denominator", "1.0")


def secant_rate(centres: Array, options: Options) -> float:
    """The factor of the distances from centers [K] in squared secants. The file does not record their width; the
    default is 1 / 0.33, as in the first FasterKAN. Raises OptionError."""
    spacing = (repr(between_centres(centres)),) if len(centres) > 1 else ()
    width = options.number("denominator", SECANT_WIDTHS[0], among=(*SECANT_WIDTHS, *spacing))
    if not width:
        raise OptionError(
            "option denominator is 0, expected another number",
            code="option-out-of-range",
            hint="pass --option denominator=NUMBER",
        )
    return 1 / width


def between_starts(starts: Array) -> float:
    """The grid interval h of uniform cubic splines, from the starts of the K >= 4 splines.

    Source: inkan's and flashkan's KANLayer, for a range (low, high) of G = K - 3 cells:
    start_c = c h + low - 3 h, in the precision the starts are stored in. The range
    with the fewest decimals that gives the stored starts to the last bit is taken;
    where there is none, the mean distance.
    """
    cells = len(starts) - ORDER
    mean = float(starts[-1] - starts[0]) / (len(starts) - 1)
    kind: type[np.floating[Any]] = np.float32 if bool(np.all(starts == starts.astype(np.float32))) else np.float64
    for digits in range(DECIMAL_LIMIT + 1):
        low, high = round(float(starts[ORDER]), digits), round(float(starts[ORDER]) + cells * mean, digits)
        step = (high - low) / cells
        # The values that the libraries store for a range. torch rounds a Python number before it uses it.
        stored = np.asarray(np.arange(cells + ORDER, dtype=kind) * kind(step) + kind(low) - kind(ORDER * step))
        if np.array_equal(stored, starts):
            return step
    return mean


def cubic_step(starts: Array, options: Options) -> float:
    """The grid interval h of the splines with starts [K]. The file does not record it; the default is the result of
    `between_starts`. Raises InvalidKan and OptionError."""
    if len(starts) <= ORDER:
        raise InvalidKan(
            f"found {len(starts)} starts of cubic splines, expected G + 3 with G >= 1",
            code="grid-wrong-shape",
            hint=USE_MODULE,
        )
    if not np.isfinite(starts).all() or not (np.diff(starts) > 0).all():
        raise InvalidKan(
            f"grid_starts are {starts.tolist()[:8]}, expected finite and increasing numbers",
            code="knots-not-increasing",
            hint="repair or retrain the model: grid_starts must increase",
        )
    return options.number("h", repr(between_starts(starts)))


# Alternatives in copies of layers that take polynomials of tanh(x).
COPIES = {
    "raw": "copies with polynomials of x",
    "clip": "copies that clamp x to -1 and 1, without tanh",
    "clip-eps": "copies that clamp x to -1 + squash_eps and 1 - squash_eps, without tanh",
    "tanh-eps": "copies that keep tanh(x) squash_eps away from -1 and 1",
    "tanh-twice": "copies that apply tanh twice",
    "arctan": "copies with 2 / pi arctan(x)",
    "softsign": "copies with x / (1 + |x|)",
    "sigmoid": "copies with 2 sigmoid(x) - 1",
    "oid": "copies with coefficients [outputs, inputs, degree + 1]",
}
SHORT = ("1e-6", "1e-7", "1e-5", "1e-4", "1e-3", "1e-2")  # values of the option squash_eps
SQUASHES: dict[str, Callable[[Options], Squash]] = {
    "tanh": lambda options: Tanh(),
    "raw": lambda options: Raw(),
    "clip": lambda options: Clip(),
    "clip-eps": lambda options: Clip(short=options.number("squash_eps", SHORT[0], among=SHORT)),
    "tanh-eps": lambda options: Tanh(short=options.number("squash_eps", SHORT[0], among=SHORT)),
    "tanh-twice": lambda options: TanhOf(Tanh()),
    "arctan": lambda options: Bounded(elementwise.SYMBOLIC["arctan"], 2 / math.pi),
    "softsign": lambda options: Bounded(elementwise.SHAPES["softsign"]),
    "sigmoid": lambda options: Tanh(slope=0.5),
}


def forward(options: Options, own: str, rivals: Mapping[str, str] | None = None, *, same: tuple[str, ...] = ()) -> str:
    """The forward of a layer of polynomials of tanh(x): `own`, one of the `rivals`, or one of the COPIES. The COPIES
    in `same` are left out, because each equals one of the `rivals`. Raises OptionError."""
    copies = {name: words for name, words in COPIES.items() if name not in same}
    return options.forward(own, {**(rivals or {}), **copies})


def coefficients(part: Part, name: str, whose: str) -> Array:
    """[I, O, K]; a copy may have them as [O, I, K]. Raises InvalidKan."""
    coef = part.tensor(name, None, None, None)
    return coef.transpose(1, 0, 2) if whose == "oid" else coef


def squashed(basis: Polynomial, whose: str, options: Options) -> Polynomial:
    """The polynomials of the squash that the copy uses. Raises OptionError."""
    return polynomial.squashed(basis, SQUASHES[whose](options)) if whose in COPIES and whose in SQUASHES else basis
