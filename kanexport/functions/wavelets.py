"""Mother wavelets. Each edge has its shift and width.

Source: zavareh1/Wav-KAN, KANLinear.wavelet_transform, for u = (x - t) / s; Morlet is also
torch-wavelet-kan's. A value that is not finite gives NaN in each, as 0 * inf does there.

    mexican_hat   2 / (sqrt(3) pi^(1/4)) (u^2 - 1) exp(-u^2 / 2)      (the textbook's, negated)
    morlet        cos(5 u) exp(-u^2 / 2)
    dog           -u exp(-u^2 / 2)
    meyer         sin(pi |u|) times 1 up to 1/2, cos(pi/2 nu(2 |u| - 1)) up to 1, 0 beyond
    shannon       sin(u) / u                                          (its window is the reader's)
    ricker        mexican_hat with the textbook's sign, as copies have it
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kanexport.errors import REPAIR, InvalidKan
from kanexport.functions.elementwise import Array, Unary, table
from kanexport.graph.builder import Graph, Value

HAT_HEIGHT = 2 / (math.sqrt(3) * math.pi**0.25)
MORLET_FREQUENCY = 5.0
SLOWEST = 1e-6  # rates from here to its inverse have ordinary squares
REACH = 20.0  # widths, at which exp(-u^2 / 2) is zero in float32
NU = (35.0, -84.0, 70.0, -20.0)  # nu(t) = t^4 (35 - 84 t + 70 t^2 - 20 t^3), Meyer's step from 0 to 1


def _bell(u: Array) -> Array:
    return np.asarray(np.exp(-(u**2) / 2))


def _emit_bell(g: Graph, u: Value) -> Value:
    return g.op("Exp", g.mul(g.mul(u, u), g.const(-0.5)))


def _emit_hat(g: Graph, u: Value) -> Value:
    # (u - 1) bell (u + 1): exact beside the zeros, and the bell comes before u^2 could overflow.
    unit = g.const(1.0)
    left = g.mul(g.mul(g.sub(u, unit), g.const(HAT_HEIGHT)), _emit_bell(g, u))
    return g.mul(left, g.add(u, unit))


def _meyer(u: Array) -> Array:
    v = np.abs(u)
    t = 2 * v - 1
    fall = np.cos(np.pi / 2 * (t**4 * (NU[0] + NU[1] * t + NU[2] * t**2 + NU[3] * t**3)))
    return np.asarray(np.sin(np.pi * v) * np.where(v <= 0.5, 1.0, np.where(v >= 1, 0.0, fall)))


def _emit_meyer(g: Graph, u: Value) -> Value:
    """The Meyer wavelet. nu(t) = 1 - nu(1 - t), so that only t up to 1/2 is needed, where nu does not cancel."""
    v = g.op("Abs", u)
    t = g.clip(g.sub(g.mul(v, g.const(2.0)), g.const(1.0)), 0.0, 1.0)
    near = g.op("Min", t, g.sub(g.const(1.0), t))
    total = g.const(NU[3])
    for factor in reversed(NU[:3]):
        total = g.add(g.mul(total, near), g.const(factor))
    square = g.mul(near, near)
    angle = g.mul(g.mul(g.mul(square, square), total), g.const(math.pi / 2))
    first_half = g.op("LessOrEqual", t, g.const(0.5))
    fall = g.op("Where", first_half, g.op("Cos", angle), g.op("Sin", angle))
    return g.mul(g.op("Sin", g.mul(v, g.const(math.pi))), fall)


def _emit_sinc(g: Graph, u: Value) -> Value:
    unit = g.const(1.0)
    at_zero = g.op("Equal", u, g.const(0.0))
    return g.op("Where", at_zero, unit, g.op("Div", g.op("Sin", u), g.op("Where", at_zero, unit, u)))


def _sinc(u: Array) -> Array:
    safe = np.where(u == 0, 1.0, u)
    return np.where(u == 0, 1.0, np.sin(safe) / safe)


WAVELET = "wavelet"  # kind of recipe
WAVELETS = table(
    WAVELET,
    Unary("mexican_hat", lambda u: HAT_HEIGHT * (u**2 - 1) * _bell(u), _emit_hat),
    Unary(
        "morlet",
        lambda u: np.cos(MORLET_FREQUENCY * u) * _bell(u),
        lambda g, u: g.mul(g.op("Cos", g.mul(u, g.const(MORLET_FREQUENCY))), _emit_bell(g, u)),
    ),
    Unary("dog", lambda u: -u * _bell(u), lambda g, u: g.mul(g.op("Neg", u), _emit_bell(g, u))),
    Unary("meyer", _meyer, _emit_meyer),
    Unary("shannon", _sinc, _emit_sinc),
    Unary("ricker", lambda u: HAT_HEIGHT * (1 - u**2) * _bell(u), lambda g, u: g.op("Neg", _emit_hat(g, u))),
)


Weighted = Callable[[Graph, Value, Array, Array], Value]


def _bell_of(g: Graph, d: Value, rate: Array) -> tuple[Value, Value]:
    """-u^2 / 2 and exp(-u^2 / 2) for u = d * rate, with one constant for both factors."""
    exponent = g.mul(g.mul(d, d), g.const(-0.5 * rate**2))
    return exponent, g.op("Exp", exponent)


def _weighted_hat(g: Graph, d: Value, rate: Array, weight: Array) -> Value:
    exponent, bell = _bell_of(g, d, rate)
    inner = g.mul(g.add(exponent, g.const(0.5)), bell)
    return g.mul(inner, g.const(-2 * HAT_HEIGHT * weight))


def _weighted_morlet(g: Graph, d: Value, rate: Array, weight: Array) -> Value:
    angle = g.mul(d, g.const(MORLET_FREQUENCY * rate))
    bell = g.op("Exp", g.mul(g.mul(angle, angle), g.const(-0.5 / MORLET_FREQUENCY**2)))
    return g.mul(g.mul(g.op("Cos", angle), bell), g.const(weight))


# weight * wavelet(d * rate) with fewer operators on all edges, because the constants of an edge are multiplied first.
WEIGHTED: dict[str, Weighted] = {
    "mexican_hat": _weighted_hat,
    "morlet": _weighted_morlet,
    "dog": lambda g, d, rate, weight: g.mul(g.mul(d, _bell_of(g, d, rate)[1]), g.const(-rate * weight)),
    "ricker": lambda g, d, rate, weight: _weighted_hat(g, d, rate, -weight),
}
HATS = ("mexican_hat", "ricker")  # near a zero of these, the form has an absolute error; infinite squares make it NaN


def weighted(g: Graph, function: Unary, centre: Array, rate: Array) -> Weighted | None:
    """The form of `WEIGHTED` of a wavelet in a float32 graph, if the squares of all numbers in it are ordinary ones and
    its error is small enough."""
    if g.dtype != np.float32 or function is not WAVELETS.get(function.name):
        return None
    size = np.abs(rate)
    fits = size.min() >= SLOWEST and size.max() <= 1 / SLOWEST and np.abs(centre).max() <= 1 / SLOWEST
    return WEIGHTED.get(function.name) if fits and not (g.small_values and function.name in HATS) else None


def bounded(g: Graph, function: Unary, x: Value, centre: Array, rate: Array) -> Value:
    """x for a form of `WEIGHTED`: without numbers so large that their squares are infinite, where the wavelet is zero;
    NaN for infinities."""
    if function.name not in HATS:
        return x
    reach = float((np.abs(centre) + REACH / np.abs(rate)).max())
    return g.clip(g.add(x, g.sub(x, x)), -reach, reach)


def hamming(count: int) -> Array:
    """torch.hamming_window(count, periodic=False): 0.54 - 0.46 cos(2 pi i / (count - 1)); [1] for one."""
    if count == 1:
        return np.ones(1)
    return np.asarray(0.54 - 0.46 * np.cos(2 * np.pi * np.arange(count) / (count - 1)))


def rates(widths: Array) -> Array:
    """1 / width of every wavelet, from [O, I, K] to [I, O, K]. Raises InvalidKan for a width of zero or infinity,
    with its edge."""
    flat = np.argwhere(widths == 0)
    if len(flat):
        destination, source, at = (int(v) for v in flat[0])
        raise InvalidKan(
            f"the scale of wavelet {at} on edge {source} -> {destination} is 0 ({len(flat)} of {widths.size} are): "
            "the library divides by it",
            code="weights-not-finite",
            hint="train again, or set the scale and the weight: the edge is NaN or infinite in the library too",
        )
    endless = np.argwhere(np.isinf(widths))
    if len(endless):  # 1 / inf is a number again
        destination, source, at = (int(v) for v in endless[0])
        raise InvalidKan(
            f"the scale of wavelet {at} on edge {source} -> {destination} is {float(widths[tuple(endless[0])])!r}",
            code="weights-not-finite",
            hint=REPAIR,
        )
    with np.errstate(over="ignore"):  # the layer refuses what is not finite
        return (1 / widths).transpose(1, 0, 2)
