"""Bases and functions on intervals: enclosures of the exact functions, and errors of their float32 operators.

Most bases run as they are: `evaluate` on `Taylor` numbers, `emit` on `Bounds`. This module has the others:

* A domain map of a polynomial is enclosed first, and its float32 error is a formula. The polynomial is then a function
  of u, whose slope passes the error of u on, and whose operators add their rounding.
* Waves reduce their angle by whole turns, which no interval follows. Their float32 error is a formula.
* Cubic splines, squared secants and ReLU bumps have a smooth form here, without |x|.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis
from kanexport.bases.activated_bumps import ActivatedBumps
from kanexport.bases.activation import Activation
from kanexport.bases.fermat import Fermat
from kanexport.bases.fourier import SINGLE_PRODUCT_HARMONICS, Fourier
from kanexport.bases.gaussian import Gaussian
from kanexport.bases.piecewise_linear import Hats
from kanexport.bases.piecewise_polynomial import LocalPowers
from kanexport.bases.polynomial import Polynomial
from kanexport.bases.rational import Rational
from kanexport.bases.recurrence import Recurrence
from kanexport.bases.relu_bumps import ReluBumps
from kanexport.bases.sech2 import Sech2
from kanexport.bases.sine import Sine
from kanexport.bases.uniform_cubic import Cubic
from kanexport.certify import intervals, taylor
from kanexport.certify.operators import Bounds
from kanexport.certify.taylor import DOUBLE, SINGLE, Taylor, UnboundedError
from kanexport.functions.domain_maps import Bounded, Clip, Range, Raw, Sigmoid, Squash, Tanh, TanhOf
from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC, Unary

Array = npt.NDArray[np.float64]

LOGISTIC = 1e-6  # float32 error of a function by exp
MAPPED = 3e-6  # of tanh in the form of domain maps: twice the error of exp, and of the quotient
ANGLES = 5e4  # up to which a domain of a wave is reduced exactly
SAME = 1e-11  # relative: constants of two forms of a polynomial, in float64
KNOWN = (
    ActivatedBumps,
    Gaussian,
    Fourier,
    Sine,
    Sech2,
    Cubic,
    ReluBumps,
    Hats,
    LocalPowers,
    Rational,
    Fermat,
    Activation,
)


@dataclass(frozen=True, slots=True)
class _Given:
    """Domain map whose values are known: `u`, or its sign and rest."""

    u: Taylor
    sign: Taylor | None
    rest: Taylor | None
    open: bool

    name = "given"

    def evaluate(self, x: Any) -> Any:
        return self.u

    def emit(self, g: Any, x: Any) -> Any:
        return self.u

    def emit_rest(self, g: Any, x: Any) -> tuple[Any, Any]:
        return self.sign, self.rest


def unary(function: Unary, x: Taylor) -> Taylor:
    """The enclosure of a function of one number. Raises UnboundedError."""
    smooth: dict[str, Callable[[Any], Any]] = {
        "sigmoid": taylor.sigmoid,
        "silu": lambda x: x * taylor.sigmoid(x),
        "softplus": taylor.softplus,
        "gelu": lambda x: x * taylor.normal(x),
    }
    known = function is ACTIVATIONS.get(function.name) or function is SYMBOLIC.get(function.name)
    if known and function.name in smooth:
        return _number(smooth[function.name](x))
    return _run(lambda: function.evaluate(cast(Any, x)))


def emitted(function: Unary, x: Taylor) -> Taylor:
    """The range of a function of float32 numbers with errors, and its error in the graph. Raises UnboundedError."""
    if function is ACTIVATIONS.get(function.name) and function.name in ("gelu", "gelu_tanh", "silu"):
        result = unary(function, x)
        return Taylor(result.coefs, 1.2 * x.error + 3 * LOGISTIC * (1 + x.size), SINGLE)
    return _both_forms(lambda g: _run(lambda: function.emit(g, cast(Any, x))))


def _both_forms(emit: Callable[[Bounds], Taylor]) -> Taylor:
    """The range of emitted operators, and the larger error of their two forms: for all values, and for small ones."""
    usual, small = (emit(Bounds(small_values=value)) for value in (False, True))
    return Taylor(usual.coefs, np.maximum(usual.error, small.error), SINGLE)


def _run(compute: Callable[[], Any]) -> Taylor:
    """The number that code for arrays or for graphs computes. Raises UnboundedError, also for code that needs an
    array."""
    try:
        return _number(compute())
    except (AttributeError, IndexError, TypeError) as error:
        raise UnboundedError(f"an operation on arrays ({error})") from error


def _number(value: Any) -> Taylor:
    value = value.item() if isinstance(value, np.ndarray) and value.dtype == object else value
    if not isinstance(value, Taylor):
        raise UnboundedError("the value does not depend on the source")
    return value


def known(basis: Basis) -> bool:
    """Whether this module encloses a basis."""
    if isinstance(basis, (Polynomial, Recurrence)):
        return isinstance(basis.squash, (Tanh, Clip, Bounded, TanhOf, Raw, Sigmoid, Range))
    return isinstance(basis, KNOWN) or smooth_width(basis) is not None


def smooth_width(basis: Basis) -> float | None:
    """The width of the narrowest feature of a basis that declares one (`kanexport/bases/__init__.py`)."""
    width = getattr(basis, "smooth_width", None)
    return None if width is None else float(width)


def enclosed(basis: Basis, x: Taylor) -> Taylor:
    """[n, I] -> [n, K, I]: the functions of a basis. Raises UnboundedError."""
    if isinstance(basis, (Polynomial, Recurrence)):
        return _polynomial(basis, _domain(basis.squash, x))
    if isinstance(basis, Activation):
        return unary(basis.function, x)[:, None, :]
    if isinstance(basis, Fermat):
        u = taylor.sigmoid(x)
        powers = [(u ** (2.0**n) - 1) / 2 for n in range(1, basis.functions)]
        return taylor.stack([u.constant(np.ones(u.shape)), *powers], axis=1)
    if isinstance(basis, Sech2):
        t = taylor.tanh(_number((x[:, None, :] - basis.centres[:, None]) * basis.rate))
        return _number(1.0 - taylor.multiplied(t, t))
    if isinstance(basis, Cubic):
        return _cubic(_number((x[:, None, :] - basis.starts[:, None]) / basis.step - 2.0))
    if isinstance(basis, ReluBumps):
        u = x[:, None, :]
        # A function whose ends have crossed is zero.
        product = (u - basis.low.T) * (np.maximum(basis.high, basis.low).T - u) * basis.rate
        return taylor.relu_power(product, basis.power)
    if isinstance(basis, ActivatedBumps):
        return _activated_bumps(basis, x, unary, np.asarray)
    if isinstance(basis, LocalPowers):
        return _local_powers(basis, x)
    return _run(lambda: basis.evaluate(cast(Any, x)))


def _activated_bumps(
    basis: ActivatedBumps, x: Taylor, of: Callable[[Unary, Taylor], Taylor], const: Callable[[Any], Any]
) -> Taylor:
    """The bumps of an activation, which `of` encloses. `const`: a constant, with its error in a graph."""
    u, ends = x[:, None, :], basis.bumps
    rising = of(basis.function, _number(u - const(ends.low.T[None])))
    falling = of(basis.function, _number(const(ends.high.T[None]) - u))
    value = bump = _number(rising * falling * const(ends.rate))
    for _ in range(ends.power - 1):
        value = _number(value * bump)
    return _number(value * u) if basis.times_x else value


def _cubic(v: Taylor) -> Taylor:
    """The cubic B-spline around zero, with knots one apart: by the form of each side, and by one around zero."""
    left, right = (
        _number(taylor.relu_power(2.0 + side, 3) * (1 / 6) - taylor.relu_power(1.0 + side, 3) * (4 / 6))
        for side in (v, -v)
    )
    middle = 4 / 6 - v * v + (taylor.relu_power(v, 3) + taylor.relu_power(-v, 3)) * 0.5
    low, high = v.coefs[0]
    anywhere = taylor.larger(left, right)  # no more than an enclosure: one of both is the function
    sides = taylor.select(high <= 0, left, taylor.select(low >= 0, right, anywhere))
    return taylor.select((low >= -1) & (high <= 1), _number(middle), sides)


def _local_powers(basis: LocalPowers, x: Taylor) -> Taylor:
    low, high = basis.inner[:, :-1].T, basis.inner[:, 1:].T
    u = x[:, None, :]
    cells = taylor.clip((u - low) / (high - low), 0.0, 1.0)
    below = taylor.smaller(u, u.constant(basis.inner[:, 0]))
    above = taylor.relu_power(_number(u - basis.inner[:, -1]), 1)
    parts = [below, cells, above]
    pieces = taylor.concatenate(parts, axis=1)  # [n, N + 1, I]
    powers = taylor.stack([pieces**p for p in range(1, basis.degree + 1)], axis=2)
    flat = powers.reshape(x.shape[0], basis.functions - 3, x.shape[1])
    first, last = (u.constant(np.full(u.shape, value)) for value in (1.0, 0.0))
    return taylor.concatenate([first, flat, last, last], axis=1)


def _domain(squash: Squash, x: Taylor) -> Taylor:
    if isinstance(squash, Sigmoid):
        return taylor.sigmoid(x)
    if isinstance(squash, Bounded):
        return _number(unary(squash.function, x) * squash.scale + squash.shift)
    return _number(squash.evaluate(cast(Any, x)))


def _polynomial(basis: Polynomial | Recurrence, u: Taylor) -> Taylor:
    """The polynomials of u [n, I]."""
    with_values: Any = _Given(u, None, None, basis.squash.open)
    if isinstance(basis, Polynomial):
        bare = _number(dataclasses.replace(basis, squash=with_values, outer=None).evaluate(cast(Any, u)))
        return unary(basis.outer, bare) if basis.outer else bare
    bare = _number(dataclasses.replace(basis, squash=with_values, weight=None).evaluate(cast(Any, u)))
    return _number(bare * unary(basis.weight, u)[:, None]) if basis.weight else bare


def served(basis: Basis, low: Array, high: Array) -> Taylor:
    """[n, K, I]: the functions of a basis for float32 sources from low to high [n, I], with the error of the served
    graph. Raises UnboundedError."""
    if isinstance(basis, (Polynomial, Recurrence)):
        return _served_polynomial(basis, low, high)
    x = Bounds.source(low, high)
    if isinstance(basis, (Fourier, Sine)):
        return _served_waves(basis, low, high)
    if isinstance(basis, Activation):
        return emitted(basis.function, x)[:, None, :]
    if isinstance(basis, ActivatedBumps):
        return _activated_bumps(basis, x, emitted, Bounds.const)
    limit = basis.limit(np.dtype(np.float32)) if isinstance(basis, Rational) else None
    if limit is not None and max(np.abs(low).max(), np.abs(high).max()) > limit:
        raise UnboundedError("a rational function beyond the limit of its graph")

    def of_form(g: Bounds) -> Taylor:
        value, scale = _of_functions(basis, g, x, low.shape[1]), basis.emitted_scale(g)
        return Taylor([intervals.scaled(value.coefs[0], scale)], value.error * scale, SINGLE)

    return _both_forms(of_form)


def _of_functions(basis: Basis, g: Bounds, x: Taylor, sources: int) -> Taylor:
    """[n, K, I]: the functions that a basis emits, also if it emits only one, without the axis K."""
    value = _number(basis.emit(g, cast(Any, x), sources))
    return value if value.ndim == 3 else value[:, None, :]


def _served_waves(basis: Fourier | Sine, low: Array, high: Array) -> Taylor:
    """Sines and cosines: the error of the angle is at most that of one product, or of the reduced angle."""
    far = np.maximum(np.abs(low), np.abs(high))
    if far.max() > ANGLES:
        raise UnboundedError("an angle beyond the largest number of turns")
    if isinstance(basis, Fourier):
        order = np.tile(np.arange(1.0, basis.harmonics + 1), 2)
        extra = 0.0 if basis.harmonics <= SINGLE_PRODUCT_HARMONICS else 4e-6 + 2e-9 * basis.harmonics
    else:
        order, extra = np.abs(basis.frequencies), 4e-6
    angle = far[:, None, :] * order[:, None]
    phase = np.abs(basis.phases) if isinstance(basis, Sine) else 0.0
    error = SINGLE * (8 * angle + 4 * phase + 64) + extra + LOGISTIC
    top = np.ones_like(error)
    return Taylor([(-top, top)], error, SINGLE)


def _served_polynomial(basis: Polynomial | Recurrence, low: Array, high: Array) -> Taylor:
    squash = basis.squash
    error = np.broadcast_to(_domain_error(squash, low, high), low.shape)[:, None, :]
    u = _domain(squash, Taylor.source(low, high, order=0))[:, None, :]
    first, last = u.coefs[0][0] - error, u.coefs[0][1] + error
    if isinstance(squash, (Tanh, TanhOf, Clip, Sigmoid)):  # others may exceed their limits by a rounding
        first, last = np.maximum(first, -1.0), np.minimum(last, 1.0)
    # The polynomials of the float32 number u, or of its sign and rest, which have no error by themselves.
    size = np.maximum(np.abs(first), np.abs(last))
    least = np.where((first <= 0) & (last >= 0), 0.0, np.minimum(np.abs(first), np.abs(last)))
    sign = Taylor([(np.where(first >= 0, 1.0, -1.0), np.where(last <= 0, -1.0, 1.0))], np.zeros(first.shape), SINGLE)
    rest = Taylor([(1 - size, 1 - least)], np.zeros(first.shape), SINGLE)
    value = Taylor([(first, last)], np.zeros(first.shape), SINGLE)
    fixed = cast(Any, dataclasses.replace(basis, squash=cast(Any, _Given(value, sign, rest, squash.open))))
    operators = _both_forms(lambda g: _of_functions(fixed, g, value[:, 0], low.shape[1]))
    wide = Taylor.source(first[:, 0], last[:, 0], order=1, unit=DOUBLE)
    exact = _polynomial(basis, wide)
    passed = intervals.largest(exact.coefs[1]) * error
    rounding = operators.error + SAME * intervals.largest(exact.coefs[0])
    return Taylor([exact.coefs[0]], rounding + passed, SINGLE)


def _domain_error(squash: Squash, low: Array, high: Array) -> Array:
    """[n, I]: the float32 error of u, as a number or as a sign and the rest 1 - |u|."""
    far = np.maximum(np.abs(low), np.abs(high))
    if isinstance(squash, TanhOf):
        return np.asarray(_domain_error(squash.inner, low, high) + MAPPED)
    if isinstance(squash, Tanh):
        plain = squash.slope == 1 and squash.shift == 0
        return np.asarray(MAPPED + (0 if plain else 4 * SINGLE * (np.abs(squash.slope) * far + abs(squash.shift))))
    if isinstance(squash, Range):
        size = far + abs(squash.low) + abs(squash.high)
        return np.asarray(8 * SINGLE * (1 + 2 * size / (squash.high - squash.low)))
    if isinstance(squash, Raw):
        return np.asarray(SINGLE * (1 + far))
    if isinstance(squash, Clip):
        return np.full_like(far, 4 * SINGLE)
    if isinstance(squash, Sigmoid):
        return np.full_like(far, 2 * LOGISTIC)
    assert isinstance(squash, Bounded)
    inner = emitted(squash.function, Bounds.source(low, high))
    return np.asarray(inner.error * abs(squash.scale) + 8 * SINGLE * (1 + abs(squash.shift)))


def feature(basis: Basis) -> float | None:
    """The width of the narrowest feature of a basis; None for one whose points suffice."""
    if isinstance(basis, Gaussian):
        return float(np.abs(basis.denominator).min())
    if isinstance(basis, Sech2):
        return 1 / max(abs(basis.rate), 1e-3)
    if isinstance(basis, Fourier):
        return 2.0 / basis.harmonics
    if isinstance(basis, Sine):
        return 2.0 / max(float(np.abs(basis.frequencies).max()), 0.5)
    if isinstance(basis, (Polynomial, Recurrence)):
        slope = abs(basis.squash.slope) if isinstance(basis.squash, Tanh) else 1.0
        return 2.0 / (basis.functions * max(slope, 1e-3))
    if isinstance(basis, (Cubic, ReluBumps, Hats, LocalPowers)):
        return None
    return 0.5 if isinstance(basis, Rational) else smooth_width(basis) or 1.0


def kinks(basis: Basis, sources: int) -> Array:
    """[P, I]: where a basis may have no second derivative."""
    if isinstance(basis, (Cubic, ReluBumps, Hats, LocalPowers)):
        knots = np.broadcast_to(basis.knots(), (sources, basis.knots().shape[1]))
        return np.asarray(knots.T, dtype=np.float64)
    zero = np.zeros((1, sources))
    if isinstance(basis, (Polynomial, Recurrence)) and isinstance(basis.squash, (Clip, TanhOf)):
        inner = basis.squash.inner if isinstance(basis.squash, TanhOf) else basis.squash
        ends = [] if isinstance(inner, Tanh) else [zero - (1 - inner.short), zero + (1 - inner.short)]
        return np.concatenate([zero, *ends])
    return zero
