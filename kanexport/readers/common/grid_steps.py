"""Grid steps: the distance of the points of a uniform grid, for files that store only rounded points.

Libraries keep such a spacing as a Python number, computed from the range their
constructor was given, while the points are stored in float32. A range is nearly
always a short decimal number, so it can be read off the rounded points exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis, polynomial
from kanexport.bases.polynomial import Polynomial
from kanexport.bases.recurrence import Recurrence
from kanexport.errors import USE_MODULE, InvalidKan, OptionError
from kanexport.functions import domain_maps, elementwise
from kanexport.functions.domain_maps import Bounded, Clip, Raw, Sigmoid, Squash, Tanh, TanhOf
from kanexport.ir.model import BasisTerm, Layer, Term
from kanexport.ir.norms import LayerNorm
from kanexport.ir.steps import Elementwise, RowRange, Step
from kanexport.options import EPSILONS, Options
from kanexport.readers.common.layer_tensors import Array, Part

StepArray = npt.NDArray[np.float64]

DECIMAL_LIMIT = 16  # of a range, tried from the fewest on; float64 has no more digits
ORDER = 3  # of the splines that inkan and flashkan have


def between_centres(centres: StepArray) -> float:
    """(last - first) / (K - 1) of two or more centers [K], with the ends as the user gave them.

    Source: FastKAN's and RBF-KAN's default denominator.
    """
    first, last = (_shortest(float(end)) for end in (centres[0], centres[-1]))
    return (last - first) / (len(centres) - 1)


WIDTHS = ("1.0",)  # of Gaussians in published layers, beside the centres' spacing: X-KANeRF's GRBFKANLayer
SECANT_WIDTHS = ("0.33", "0.5", "1.0", "2.0")  # of squared secants; the first FasterKAN's default first


def denominator(centres: StepArray, options: Options) -> float:
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


def secant_rate(centres: StepArray, options: Options) -> float:
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


def _shortest(value: float) -> float:
    """The shortest decimal number that float32 rounds to `value`; `value` itself if it needs more digits than
    float32 has."""
    if not np.isfinite(value) or float(np.float32(value)) != value:
        return value
    return float(str(np.float32(value)))


def between_starts(starts: StepArray) -> float:
    """The grid interval h of uniform cubic splines, from the starts of the K >= 4 splines.

    Source: inkan's and flashkan's KANLayer, for a range (low, high) of G = K - 3 cells:
    start_c = c h + low - 3 h, in the precision the starts are stored in. The range
    with the fewest decimals that gives the stored starts to the last bit is taken;
    where there is none, the mean distance.
    """
    cells = len(starts) - ORDER
    mean = float(starts[-1] - starts[0]) / (len(starts) - 1)
    kind = np.float32 if bool(np.all(starts == starts.astype(np.float32))) else np.float64
    for digits in range(DECIMAL_LIMIT + 1):
        low, high = round(float(starts[ORDER]), digits), round(float(starts[ORDER]) + cells * mean, digits)
        if np.array_equal(_starts(low, high, cells, kind), starts):
            return (high - low) / cells
    return mean


def cubic_step(starts: StepArray, options: Options) -> float:
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


def _starts(low: float, high: float, cells: int, kind: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """The values that the libraries store for a range. torch rounds a Python number before it uses it."""
    step = (high - low) / cells
    return np.asarray(np.arange(cells + ORDER, dtype=kind) * kind(step) + kind(low) - kind(ORDER * step))


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


@dataclass(frozen=True, slots=True)
class Argument:
    """The argument of the functions of a layer: steps of the whole row `first`, then a squash of each source."""

    squash: Squash
    first: tuple[Step, ...] = ()

    # The squash by name, a key of SQUASHES. A layernorm has no weights; row-range scales by the extremes of the row.
    NAMES: ClassVar[dict[str, str]] = {
        "tanh": "tanh",
        "x": "raw",
        "clip": "clip",
        "sigmoid": "",
        "clip-eps": "clip-eps",
        "tanh-eps": "tanh-eps",
        "arctan": "arctan",
        "arctan-1": "",
        "softsign": "softsign",
        "sigmoid-2": "sigmoid",
        "tanh-twice": "tanh-twice",
        "row-range": "raw",
        "layernorm": "raw",
        "layernorm-tanh": "tanh",
    }

    @classmethod
    def make(cls, name: str, sources: int, options: Options) -> Argument:
        """The argument with one of NAMES. Raises OptionError."""
        own: dict[str, Squash] = {"sigmoid": Sigmoid(), "arctan-1": Bounded(elementwise.SYMBOLIC["arctan"])}
        squash = own[name] if name in own else SQUASHES[cls.NAMES[name]](options)
        if name == "row-range":
            return cls(squash, (RowRange(),))
        if name.startswith("layernorm"):
            epsilon = options.number("layernorm_eps", EPSILONS[0], among=EPSILONS)
            return cls(squash, (LayerNorm(np.ones(sources), np.zeros(sources), epsilon),))
        return cls(squash)

    def applied(self, basis: Basis) -> Basis:
        """The polynomials of the squashed sources, after the steps of the row."""
        if isinstance(basis, Polynomial):
            return polynomial.squashed(basis, self.squash)
        assert isinstance(basis, Recurrence)
        return replace(basis, squash=self.squash)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The whole argument as steps, for functions without a squash."""
        if isinstance(self.squash, Raw):
            return self.first
        return (*self.first, Elementwise(domain_maps.function(self.squash)))


def layer(
    basis: Basis,
    coef: Array,
    *more: Term,
    bias: Array | None = None,
    pre_steps: tuple[Step, ...] = (),
    post_steps: tuple[Step, ...] = (),
) -> Layer:
    """A layer of one basis and its coefficients [I, O, K], and of `more` terms. Raises InvalidKan."""
    n, m, _ = coef.shape
    return Layer(
        (BasisTerm(basis, coef, pre_steps), *more),
        mask=np.ones((n, m)),
        bias=np.zeros(m) if bias is None else bias,
        nan_spreads=np.zeros((n, m), dtype=bool),
        post_steps=post_steps,
    )
