"""Reimplementations of many libraries' layers in float64 numpy, with knobs that select alternative functions.

A knob selects what another library, or another constructor argument, does with the same tensors.
`generated_rivals.py` sets the knobs. The formulas are those in the readers' docstrings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Tensors = dict[str, Any]
Knobs = dict[str, Any]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def even(x: Array, epsilon: float = 1e-5) -> Array:
    """A LayerNorm without weights."""
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + epsilon)


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "sigmoid": sigmoid,
    "layernorm": even,
    "softmax": softmax,
    "log_softmax": lambda x: np.log(softmax(x)),
    "identity": lambda x: x,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky": lambda x: np.where(x > 0, x, 0.01 * x),
    "clip1": lambda x: np.clip(x, -1, 1),
    "unit": lambda x: x / np.sqrt((x**2).sum(axis=1, keepdims=True) + 1e-12),
}
SQUASHES: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "tanh twice": lambda x: np.tanh(np.tanh(x)),
    "sigmoid": lambda x: 2 * sigmoid(x) - 1,
    "clip": lambda x: np.clip(x, -1, 1),
    "clipped tanh": lambda x: np.clip(np.tanh(x), -1 + 1e-3, 1 - 1e-3),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "none": lambda x: x,
}


@dataclass(frozen=True)
class Family:
    """One format family. `make(rng, n, m)`: a layer's tensors; `forward(tensors, x, knobs)`: [B, n] to [B, m].

    `turns`: wrong knobs, each with a name and option keys, one of which the export must list as assumed.
    `options`: export options for metadata that the file lacks."""

    name: str
    make: Callable[[Any, int, int], Tensors]
    forward: Callable[[Tensors, Array, Knobs], Array]
    turns: tuple[tuple[str, tuple[str, ...], Knobs], ...] = ()
    options: tuple[str, ...] = ()


# Recurrences P_{d+1} = (a_d u + b_d) P_d - c_d P_{d-1}, from (P_0, P_1).
def _chebyshev(d: int, k: Knobs) -> tuple[float, float, float]:
    return 2.0, 0.0, 1.0


def _jacobi(d: int, k: Knobs) -> tuple[float, float, float]:
    i, a, b = d + 1, k.get("a", 1.0), k.get("b", 1.0)
    low = 2 * i * (i + a + b) * (2 * i + a + b - 2)
    return (
        (2 * i + a + b) * (2 * i + a + b - 1) / (2 * i * (i + a + b)),
        (2 * i + a + b - 1) * (a * a - b * b) / low,
        2 * (i + a - 1) * (i + b - 1) * (2 * i + a + b) / low,
    )


Recurrence = Callable[[int, Knobs], tuple[float, float, float]]
Start = Callable[[Array, Knobs], tuple[Array, Array]]


def one_and_u(u: Array, k: Knobs) -> tuple[Array, Array]:
    return np.ones_like(u), u


def one_and_twice_u(u: Array, k: Knobs) -> tuple[Array, Array]:
    return np.ones_like(u), 2 * u


def jacobi_start(u: Array, k: Knobs) -> tuple[Array, Array]:
    a, b = k.get("a", 1.0), k.get("b", 1.0)
    return np.ones_like(u), (a - b + (a + b + 2) * u) / 2


POLYNOMIALS: dict[str, tuple[str, Recurrence, Start]] = {
    "chebykan": ("cheby_coeffs", _chebyshev, one_and_u),
    "cheby2kan": ("cheby2_coeffs", _chebyshev, one_and_twice_u),
    "legendrekan": ("legendre_coeffs", lambda d, k: ((2 * d + 1) / (d + 1), 0.0, d / (d + 1)), one_and_u),
    "hermitekan": ("hermite_coeffs", lambda d, k: (2.0, 0.0, 2.0 * d), one_and_twice_u),
    "besselkan": ("bessel_coeffs", lambda d, k: (2.0 * d + 1, 0.0, -1.0), lambda u, k: (np.ones_like(u), u + 1)),
    "fibonaccikan": ("fib_coeffs", lambda d, k: (1.0, 0.0, -1.0), lambda u, k: (np.zeros_like(u), np.ones_like(u))),
    "lucaskan": ("lucas_coeffs", lambda d, k: (1.0, 0.0, -1.0), lambda u, k: (np.full_like(u, 2), u)),
    "jacobikan": (
        "jacobi_coeffs",
        _jacobi,
        jacobi_start,
    ),
    "gegenbauerkan": (
        "gegenbauer_coeffs",
        lambda d, k: (2 * (d + k.get("alpha", 3.0)) / (d + 1), 0.0, (d + 2 * k.get("alpha", 3.0) - 1) / (d + 1)),
        lambda u, k: (np.ones_like(u), 2 * k.get("alpha", 3.0) * u),
    ),
    "laguerrekan": (
        "laguerre_coeffs",
        lambda d, k: (-1 / (d + 1), (2 * d + 1 + k.get("alpha", 3.0)) / (d + 1), (d + k.get("alpha", 3.0)) / (d + 1)),
        lambda u, k: (np.ones_like(u), 1 + k.get("alpha", 3.0) - u),
    ),
}
SETTINGS: dict[str, tuple[tuple[str, tuple[str, ...], Knobs], ...]] = {
    "jacobikan": (
        ("a and b are 0", ("jacobi_a", "jacobi_b"), {"a": 0.0, "b": 0.0}),
        ("a and b are 0.5", ("jacobi_a", "jacobi_b"), {"a": 0.5, "b": 0.5}),
        ("a is 2", ("jacobi_a",), {"a": 2.0}),
    ),
    "gegenbauerkan": (
        ("alpha is 0.5", ("gegenbauer_alpha",), {"alpha": 0.5}),
        ("alpha is 1", ("gegenbauer_alpha",), {"alpha": 1.0}),
    ),
    "laguerrekan": (
        ("alpha is -0.5", ("laguerre_alpha",), {"alpha": -0.5}),
        ("alpha is 0", ("laguerre_alpha",), {"alpha": 0.0}),
    ),
}


def _polynomial(name: str) -> Family:
    key, recurrence, start = POLYNOMIALS[name]

    def forward(t: Tensors, x: Array, k: Knobs) -> Array:
        coef = t[key]
        u = SQUASHES[k.get("squash", "tanh")](x)
        values = list(start(u, k))
        for d in range(1, coef.shape[2] - 1):
            a, b, c = recurrence(d, k)
            values.append((a * u + b) * values[-1] - c * values[-2])
        basis = np.stack(values[: coef.shape[2]], axis=2)
        if k.get("per degree"):
            basis = basis / np.arange(1, coef.shape[2] + 1)
        return np.einsum("bid,iod->bo", basis, coef)

    squashes = [(f"{s} before the polynomials", ("forward",), {"squash": s}) for s in SQUASHES if s != "tanh"]
    turns = (*squashes, ("each degree has a denominator", ("forward",), {"per degree": True}), *SETTINGS.get(name, ()))
    return Family(name, lambda rng, n, m: {key: rng.normal(0, 0.4, size=(n, m, 4))}, forward, turns)


def _norm(t: Tensors, prefix: str, x: Array, epsilon: float) -> Array:
    return even(x, epsilon) * t[prefix + "weight"] + t[prefix + "bias"]


def _make_norm(rng: Any, prefix: str, m: int) -> Tensors:
    return {prefix + "weight": 1 + rng.normal(0, 0.3, size=m), prefix + "bias": rng.normal(0, 0.3, size=m)}


def _acts(*names: str) -> tuple[tuple[str, tuple[str, ...], Knobs], ...]:
    return tuple((f"the base is {name}", ("base_activation", "forward"), {"act": name}) for name in names)


EPSILONS = tuple((f"the inner norm's epsilon is {e}", ("layernorm_eps",), {"eps": e}) for e in (1e-3, 1e-1, 1e-2))


def _fastkan(t: Tensors, x: Array, k: Knobs) -> Array:
    grid = t["rbf.grid"]
    h = x if k.get("raw") else _norm(t, "layernorm.", x, k.get("eps", 1e-5))
    d = k.get("d", (grid[-1] - grid[0]) / (len(grid) - 1))
    u = (h[:, :, None] - grid) / d
    bell = (1 - np.tanh(u) ** 2) if k.get("sech") else np.exp(-(u**2) * k.get("half", 1.0))
    base = FUNCTIONS[k.get("act", "silu")](h if k.get("base of norm") else x)
    base = base @ t["base_linear.weight"].T + t["base_linear.bias"]
    return bell.reshape(len(x), -1) @ t["spline_linear.weight"].T + base


def _make_fastkan(rng: Any, n: int, m: int) -> Tensors:
    return {
        **_make_norm(rng, "layernorm.", n),
        "rbf.grid": np.linspace(-2, 2, 5),
        "spline_linear.weight": rng.normal(0, 0.4, size=(m, n * 5)),
        "base_linear.weight": rng.normal(0, 0.4, size=(m, n)),
        "base_linear.bias": rng.normal(0, 0.3, size=m),
    }


def _fasterkan(t: Tensors, x: Array, k: Knobs) -> Array:
    h = x if k.get("raw") else _norm(t, "layernorm.", x, k.get("eps", 1e-5))
    u = (h[:, :, None] - t["rbf.grid"]) * (t["rbf.inv_denominator"] if k.get("used") else 1.0)
    bell = np.exp(-(u**2)) if k.get("gauss") else 1 - np.tanh(u) ** 2
    return bell.reshape(len(x), -1) @ t["spline_linear.weight"].T


def _make_fasterkan(rng: Any, n: int, m: int) -> Tensors:
    created = _make_fastkan(rng, n, m)
    return {k: v for k, v in created.items() if "base" not in k} | {"rbf.inv_denominator": np.array(0.5)}


def _rbf(t: Tensors, x: Array, k: Knobs) -> Array:
    grid = t["rbf_linear.grid"]
    u = (x[:, :, None] - grid) / k.get("d", (grid[-1] - grid[0]) / (len(grid) - 1))
    bell = 1 / (1 + u**2) if k.get("inverse") else np.exp(-(u**2))
    base = FUNCTIONS[k.get("act", "silu")](x) @ t["base_linear.weight"].T + t["base_linear.bias"]
    return bell.reshape(len(x), -1) @ t["rbf_linear.spline_weight"] + base


def _make_rbf(rng: Any, n: int, m: int) -> Tensors:
    return {
        "rbf_linear.grid": np.linspace(-2, 2, 5),
        "rbf_linear.spline_weight": rng.normal(0, 0.4, size=(n * 5, m)),
        "base_linear.weight": rng.normal(0, 0.4, size=(m, n)),
        "base_linear.bias": rng.normal(0, 0.3, size=m),
    }


def _splines(x: Array, knots: Array, degree: int) -> Array:
    """[B, n] and knots [n, T] to [B, n, T - degree - 1]."""
    x = x[:, :, None]
    values = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).astype(np.float64)
    for p in range(1, degree + 1):
        left = (x - knots[:, : -p - 1]) / (knots[:, p:-1] - knots[:, : -p - 1])
        right = (knots[:, p + 1 :] - x) / (knots[:, p + 1 :] - knots[:, 1:-p])
        values = left * values[:, :, :-1] + right * values[:, :, 1:]
    return values


def _efficient(t: Tensors, x: Array, k: Knobs) -> Array:
    base = FUNCTIONS[k.get("act", "silu")](x) @ t["base_weight"].T
    weight = t["spline_weight"] * (1.0 if k.get("unscaled") else t["spline_scaler"][:, :, None])
    inner = np.clip(x, -1 + 1e-9, 1 - 1e-9) if k.get("clamped") else np.tanh(x) if k.get("tanh") else x
    return base + np.einsum("bic,oic->bo", _splines(inner, t["grid"], 3), weight)


def _make_efficient(rng: Any, n: int, m: int) -> Tensors:
    return {
        "grid": np.tile(np.arange(-3, 9) * 0.4 - 1, (n, 1)),
        "base_weight": rng.normal(0, 0.4, size=(m, n)),
        "spline_weight": rng.normal(0, 0.4, size=(m, n, 8)),
        "spline_scaler": rng.normal(1, 0.3, size=(m, n)),
    }


def _flash(t: Tensors, x: Array, k: Knobs) -> Array:
    starts = t["grid_starts"]
    h = (starts[-1] - starts[0]) / (len(starts) - 1) * k.get("cell", 1.0)
    values = [_splines((x - s) / h, np.tile(np.arange(5.0), (x.shape[1], 1)), 3)[:, :, 0] for s in starts]
    base = FUNCTIONS[k.get("act", "silu")](x) @ t["base_weight"].T
    return base + np.einsum("bic,oic->bo", np.stack(values, axis=2), t["spline_weight"])


def _make_flash(rng: Any, n: int, m: int) -> Tensors:
    return {
        "grid_starts": np.linspace(-2, 1, 7),
        "base_weight": rng.normal(0, 0.4, size=(m, n)),
        "spline_weight": rng.normal(0, 0.4, size=(m, n, 7)),
    }


def _fourier(t: Tensors, x: Array, k: Knobs) -> Array:
    coef = t["fouriercoeffs"]
    q = np.arange(1, coef.shape[3] + 1) - k.get("from", 0)
    u = SQUASHES[k.get("squash", "none")](x)[:, :, None] * q * k.get("factor", 1.0)
    first, second = (np.sin, np.cos) if k.get("swapped") else (np.cos, np.sin)
    waves = np.stack([first(u), second(u)])
    waves = waves / np.maximum(1, q) if k.get("smooth") else waves
    return np.einsum("dbiq,djiq->bj", waves, coef) + t["bias"]


def _make_fourier(rng: Any, n: int, m: int) -> Tensors:
    return {"fouriercoeffs": rng.normal(0, 0.3, size=(2, m, n, 3)), "bias": rng.normal(size=(1, m))}


def _sine(t: Tensors, x: Array, k: Knobs) -> Array:
    u = x[:, :, None] * t["freq"].reshape(-1) + t["phase"].reshape(x.shape[1], -1)
    wave = np.cos(u) if k.get("cos") else np.sin(u)
    return np.einsum("biq,oiq->bo", wave, t["amplitudes"]) * k.get("scale", 1.0) + t["bias"]


def _make_sine(rng: Any, n: int, m: int) -> Tensors:
    return {
        "amplitudes": rng.normal(0, 0.4, size=(m, n, 3)),
        "freq": rng.uniform(0.5, 2, size=(1, 1, 1, 3)),
        "phase": rng.uniform(0, 3, size=(1, 1, n, 3)),
        "bias": rng.normal(size=(1, m)),
    }


WAVELETS: dict[str, Callable[[Array], Array]] = {
    "mexican_hat": lambda u: 2 / (math.sqrt(3) * math.pi**0.25) * (u**2 - 1) * np.exp(-(u**2) / 2),
    "minus mexican_hat": lambda u: 2 / (math.sqrt(3) * math.pi**0.25) * (1 - u**2) * np.exp(-(u**2) / 2),
    "morlet": lambda u: np.cos(5 * u) * np.exp(-(u**2) / 2),
    "dog": lambda u: -u * np.exp(-(u**2) / 2),
    "ricker twice as wide": lambda u: (u**2 / 4 - 1) * np.exp(-(u**2) / 8),
}


def _wav(t: Tensors, x: Array, k: Knobs) -> Array:
    u = (x[:, None, :] - t["translation"]) / t["scale"]
    z = (WAVELETS[k.get("wavelet", "mexican_hat")](u) * t["wavelet_weights"]).sum(axis=2)
    if k.get("added"):
        z = z + FUNCTIONS["silu"](x) @ t["weight1"].T
    if k.get("no norm"):
        return z
    z = (z - t["bn.running_mean"]) / np.sqrt(t["bn.running_var"] + k.get("eps", 1e-5))
    return z * t["bn.weight"] + t["bn.bias"]


def _make_wav(rng: Any, n: int, m: int) -> Tensors:
    return {
        "wavelet_weights": rng.normal(0, 0.5, size=(m, n)),
        "weight1": rng.normal(0, 0.5, size=(m, n)),
        "translation": rng.normal(0, 0.5, size=(m, n)),
        "scale": rng.uniform(0.7, 1.5, size=(m, n)),
        **_make_norm(rng, "bn.", m),
        "bn.running_mean": rng.normal(0, 0.3, size=m),
        "bn.running_var": rng.uniform(0.2, 1, size=m),
    }


def _torch_wavelet(t: Tensors, x: Array, k: Knobs) -> Array:
    u = (x[:, None, :, None] - t["mu"]) / (t["scale"] + k.get("eps", 1e-5))
    waves = np.cos(k.get("frequency", 5.0) * u) * np.exp(-(u**2) / 2)
    return FUNCTIONS[k.get("act", "silu")](x) @ t["base_weight"].T + (waves * t["wavelet_weights"]).sum(axis=(2, 3))


def _make_torch_wavelet(rng: Any, n: int, m: int) -> Tensors:
    return {
        "base_weight": rng.normal(0, 0.4, size=(m, n)),
        "wavelet_weights": rng.normal(0, 0.4, size=(m, n, 2)),
        "mu": rng.normal(0, 0.5, size=(m, n, 2)),
        "scale": rng.uniform(0.7, 1.5, size=(m, n, 2)),
    }


def _turn(name: str, keys: str, **knobs: Any) -> tuple[str, tuple[str, ...], Knobs]:
    return name, tuple(keys.split()), knobs


@dataclass
class Network:
    """A network of numbered layers of one family, with the tensors between them."""

    family: Family
    widths: tuple[int, ...]
    seed: int = 0
    prefix: str = "layers."
    extra: Tensors = field(default_factory=dict)
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        sides = zip(self.widths[:-1], self.widths[1:], strict=True)
        # Values rounded to float32 as in a file, so that both sides compute from the same numbers.
        self.layers = [
            {key: np.asarray(value, np.float32) for key, value in self.family.make(rng, n, m).items()} for n, m in sides
        ]
        self.numbers = self.numbers or tuple(range(len(self.layers)))

    def tensors(self) -> Tensors:
        """As the file has them."""
        result = {
            f"{self.prefix}{at}.{key}": value
            for at, layer in zip(self.numbers, self.layers, strict=True)
            for key, value in layer.items()
        }
        return result | {key: np.asarray(value, np.float32) for key, value in self.extra.items()}

    def functions(self, knobs: Knobs) -> list[Callable[[Array], Array]]:
        """Each layer's forward."""
        precise = [{key: value.astype(np.float64) for key, value in layer.items()} for layer in self.layers]
        return [lambda x, t=t: self.family.forward(t, x, knobs) for t in precise]


FAMILIES = (
    *map(_polynomial, POLYNOMIALS),
    Family(
        "fastkan",
        _make_fastkan,
        _fastkan,
        (
            *_acts("relu", "tanh", "gelu", "identity", "elu"),
            *EPSILONS,
            _turn("a denominator of 0.8", "denominator", d=0.8),
            _turn("a denominator of 2", "denominator", d=2.0),
            _turn("half in the exponent", "denominator forward", half=0.5),
            _turn("no inner norm", "forward", raw=True),
            _turn("the base sees the norm", "forward", **{"base of norm": True}),
            _turn("sech", "forward", sech=True),
        ),
    ),
    Family(
        "fasterkan",
        _make_fasterkan,
        _fasterkan,
        (
            *EPSILONS,
            _turn("the denominator is used", "inv_denominator", used=True),
            _turn("no inner norm", "forward", raw=True),
            _turn("Gaussians", "forward", gauss=True),
        ),
    ),
    Family(
        "rbf-kan",
        _make_rbf,
        _rbf,
        (
            *_acts("relu", "tanh", "gelu"),
            _turn("a denominator of 0.5", "denominator", d=0.5),
            _turn("inverse quadratics", "forward", inverse=True),
        ),
    ),
    Family(
        "efficient-kan",
        _make_efficient,
        _efficient,
        (
            *_acts("relu", "tanh", "gelu", "identity", "leaky"),
            _turn("the scaler is not used", "forward", unscaled=True),
            _turn("sources are clamped to the grid", "forward", clamped=True),
            _turn("tanh before the splines", "forward", tanh=True),
        ),
    ),
    Family(
        "flashkan",
        _make_flash,
        _flash,
        (*_acts("relu", "tanh", "gelu"), _turn("a wider cell", "forward h", cell=1.25)),
    ),
    Family(
        "fourierkan",
        _make_fourier,
        _fourier,
        (
            _turn("harmonics from 0", "forward", **{"from": 1}),
            _turn("multiples of pi", "forward", factor=math.pi),
            _turn("sines first", "forward", swapped=True),
            _turn("smooth", "forward", smooth=True),
            _turn("tanh before", "forward", squash="tanh"),
        ),
    ),
    Family(
        "sinekan",
        _make_sine,
        _sine,
        (_turn("cosines", "forward", cos=True), _turn("a scale", "forward", scale=1 / 3)),
    ),
    Family(
        "wav-kan",
        _make_wav,
        _wav,
        (
            *(_turn(f"the wavelet is {w}", "wavelet_type", wavelet=w) for w in WAVELETS if w != "mexican_hat"),
            _turn("the base branch is added", "base_branch", added=True),
            _turn("another epsilon", "batchnorm_eps", eps=1e-2),
            _turn("no norm", "forward", **{"no norm": True}),
        ),
    ),
    Family(
        "torch-wavelet-kan",
        _make_torch_wavelet,
        _torch_wavelet,
        (
            _turn("another frequency", "forward", frequency=6.0),
            _turn("another epsilon", "epsilon", eps=0.1),
            _turn("the base is relu", "base_activation forward", act="relu"),
        ),
    ),
)
