"""Polynomial layers with ambiguous tensor names: each interpretation is compared with its formula, written out here."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import exported, normal, read, reading, refuse, save, stacked

X = np.concatenate([np.random.default_rng(1).normal(size=(6, 3)) * size for size in (0.5, 3, 40)] + [np.zeros((1, 3))])
ODD = np.array([[np.nan, 0.3, 0.3], [0.3, np.inf, 0.3], [0.3, 0.3, -np.inf]])
DEGREE = 4


def coefficients(*shape: int, seed: int = 0) -> Any:
    return normal(seed, *shape).astype(np.float32)


def output(path: Path, *options: str, x: Any = X) -> Any:
    with np.errstate(all="ignore"):
        return float64_reference.evaluate(read(path, *options)[0], x).y


def normalised(x: Any, weight: Any, bias: Any) -> Any:
    apart = x - x.mean(axis=1, keepdims=True)
    return apart / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * weight.astype(float) + bias.astype(float)


def close(actual: Any, expected: Any) -> None:
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.where(finite, 0, expected), np.where(np.isfinite(actual), 0, actual))
    scale = np.abs(np.where(finite, expected, 0)).max(axis=1, keepdims=True) + 1e-300
    np.testing.assert_allclose(np.where(finite, actual / scale, 0), np.where(finite, expected / scale, 0), atol=1e-11)


def series(values: list[Any], coef: Any) -> Any:
    """sum over sources and degrees, of values [B, I] by degree and coefficients [I, O, D + 1]."""
    with np.errstate(all="ignore"):
        return np.einsum("bid,iod->bo", np.stack(values, axis=-1), coef.astype(np.float64))


def chebyshev(u: Any, count: int) -> list[Any]:
    values = [np.where(np.isnan(u), u, 1.0), u]
    with np.errstate(all="ignore"):
        while len(values) < count:
            values.append(2 * u * values[-1] - values[-2])
    return values


CHEBY: dict[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    "chebykan": ((), np.tanh),
    "timekan": ((), lambda x: np.tanh(np.tanh(x))),
    "x-kanerf": ((), lambda x: np.clip(np.tanh(x), -1 + 1e-6, 1 - 1e-6)),
    "x-kanerf, 1e-2": (("cheby_epsilon=1e-2",), lambda x: np.clip(np.tanh(x), -0.99, 0.99)),
    "x-kanerf, 1e-3": (("cheby_epsilon=1e-3",), lambda x: np.clip(np.tanh(x), -0.999, 0.999)),
    "clip": ((), lambda x: np.clip(x, -1, 1)),
    "raw": ((), lambda x: x),
}


def test_what_chebyshev_polynomials_are_taken_of(tmp_path: Path) -> None:
    tensors = {"cheby_coeffs": coefficients(3, 2, DEGREE + 1), "arange": np.arange(DEGREE + 1)}
    path, rows = save(tmp_path, tensors), np.concatenate([X, ODD])
    for case, (options, squash) in CHEBY.items():
        expected = series(chebyshev(squash(rows), DEGREE + 1), tensors["cheby_coeffs"])
        close(output(path, f"forward={case.partition(',')[0]}", *options, x=rows), expected)


def test_chebyshev_kan_scales_each_row(tmp_path: Path) -> None:
    tensors = {"cheby_coeffs": coefficients(3, 2, 4)}
    path = save(tmp_path, tensors)
    low, high = X[:-1].min(axis=1, keepdims=True), X[:-1].max(axis=1, keepdims=True)
    expected = series(chebyshev(2 * (X[:-1] - low) / (high - low) - 1, 4), tensors["cheby_coeffs"])
    close(output(path, "forward=chebyshev-kan", x=X[:-1]), expected)
    assert np.isnan(output(path, "forward=chebyshev-kan", x=np.ones((1, 3)))).all()
    assert read(path, "forward=chebyshev-kan")[0].edge_class == "B"
    assert read(path)[0].edge_class == "A"


def test_a_trained_scale_and_a_bias_are_in_the_file(tmp_path: Path) -> None:
    coef, bias = coefficients(3, 2, 4), coefficients(2, seed=5)
    numbers = {"tanh_scale": np.array(1.5, np.float32), "tanh_bias": np.array(0.25, np.float32)}
    scaled = save(tmp_path, {"cheby_coeffs": coef, **numbers})
    close(output(scaled), series(chebyshev(np.tanh(1.5 * X + 0.25), 4), coef))
    close(output(save(tmp_path, {"cheby_coeffs": coef, "bias": bias})), series(chebyshev(np.tanh(X), 4), coef) + bias)


def test_a_copy_that_normalises_inside_is_not_taken_for_chebykan(tmp_path: Path) -> None:
    norm = {f"layer_norm.{name}": coefficients(3, seed=at) for at, name in enumerate(("weight", "bias"))}
    tensors = {"cheby_coeffs": coefficients(3, 2, 4), **norm}
    path, even = save(tmp_path, tensors), normalised(X, *norm.values())
    sums = series(chebyshev(np.tanh(even), 4), tensors["cheby_coeffs"])
    assert read(path)[1] == "chebykan-norm"
    close(output(path), sums * special.expit(sums))
    close(output(path, "output_activation=identity"), sums)
    clamped = series(chebyshev(np.clip(np.tanh(even), -0.99, 0.99), 4), tensors["cheby_coeffs"])
    close(output(path, "output_activation=identity", "cheby_epsilon=1e-2"), clamped)
    opened = (reading(path), reading(save(tmp_path, {"cheby_coeffs": tensors["cheby_coeffs"]}), "forward=x-kanerf"))
    assert all("1e-2" in result.options.open["cheby_epsilon"] for result in opened)
    exported(save(tmp_path, tensors))
    rms = {"a.cheby_coeffs": tensors["cheby_coeffs"], "a.norm.weight": norm["layer_norm.weight"]}
    refuse(tmp_path, rms, "vector=rmsnorm", kind=FamilyError)


COEF, U = coefficients(3, 2, DEGREE + 1), np.tanh(X)
TANH = {"raw": X, "clip": np.clip(X, -1, 1), "tanh-twice": np.tanh(U), "oid": U}
FAR = U * (3 + 1)  # sqrt(2 * 4 + 1) + 1
NORMS = [math.sqrt(2**d * math.factorial(d) * math.sqrt(math.pi)) for d in range(DEGREE + 1)]
JACOBI_LIKE = [
    1 + 0 * U,
    (5 * U - 3) / 2,
    (35 * U**2 - 30 * U + 3) / 8,
    (255 * U**3 - 210 * U**2 + 45 * U - 15) / 16,
    (10395 * U**4 - 10395 * U**3 + 4725 * U**2 - 945 * U + 35) / 128,
]


def values_of(function: Callable[[int, Any], Any], u: Any) -> list[Any]:
    return [function(d, u) for d in range(DEGREE + 1)]


def lucas(d: int, u: Any) -> Any:
    return [2 + 0 * u, u, u * u + 2, u**3 + 3 * u, u**4 + 4 * u * u + 2][d]


def fibonacci(d: int, u: Any) -> Any:
    return np.tanh([0 * u, 1 + 0 * u, u, u * u + 1, u**3 + 2 * u][d])


NAMES: dict[str, Callable[[int, Any], Any]] = {
    "jacobi_coeffs": lambda d, u: special.eval_jacobi(d, 1, 1, u),
    "legendre_coeffs": special.eval_legendre,
    "hermite_coeffs": special.eval_hermite,
    "lucas_coeffs": lucas,
}
# The tensor's name, the options, and the values of each degree.
COPIES: list[tuple[str, tuple[str, ...], list[Any]]] = [
    ("cheby_coeffs", ("forward=mean",), [value / 3 for value in chebyshev(U, 5)]),
    ("cheby_coeffs", ("forward=pinns", "cheby_scale=4"), [4 * value for value in chebyshev(np.tanh(X / 4), 5)]),
    ("cheby_coeffs", ("forward=second-kind",), values_of(special.eval_chebyu, U)),
    ("cheby2_coeffs", (), values_of(special.eval_chebyu, U)),
    ("cheby2_coeffs", ("forward=legendre",), values_of(special.eval_legendre, U)),
    ("cheby2_coeffs", ("forward=jacobi-like",), JACOBI_LIKE),
    ("fib_coeffs", ("forward=x-kanerf",), values_of(fibonacci, U)),
    ("lucas_coeffs", ("forward=first-version",), [np.tanh(value) for value in values_of(lucas, U)]),
    ("laguerre_coeffs", ("laguerre_alpha=-0.5",), values_of(lambda d, u: special.eval_genlaguerre(d, -0.5, u), U)),
    (
        "hermite_coeffs",
        ("forward=hermite-functions",),
        [special.eval_hermite(d, FAR) * np.exp(-(FAR**2) / 2) / NORMS[d] for d in range(DEGREE + 1)],
    ),
    *((key, (f"forward={way}",), values_of(p, u)) for key, p in NAMES.items() for way, u in TANH.items()),
]


def test_copies_with_another_function_squash_or_axes(tmp_path: Path) -> None:
    for key, options, values in COPIES:
        path = save(tmp_path, {key: COEF.transpose(1, 0, 2) if options == ("forward=oid",) else COEF})
        close(output(path, *options), series(values, COEF))
    for count in (2, 5):
        path = save(tmp_path, {"cheby2_coeffs": COEF[..., :count]})
        close(output(path, "forward=jacobi-like"), series(JACOBI_LIKE[:count], COEF[..., :count]))
        exported(path, "forward=jacobi-like")
    for key, count, options, kind in (
        ("cheby2_coeffs", 6, ("forward=legendre",), OptionError),
        ("cheby_coeffs", 4, ("forward=pinns", "cheby_scale=0"), InvalidKan),
        ("cheby_coeffs", 4, ("forward=mine",), OptionError),
    ):
        refuse(tmp_path, {key: coefficients(3, 2, count)}, *options, kind=kind)


OPEN = [
    ({"jacobi_coeffs": (3, 2, 4)}, "jacobi_a", "0.5"),
    ({"jacobi_coeffs": (3, 2, 4)}, "forward", "orthogpolykans"),
    ({"fouriercoeffs": (2, 2, 3, 4)}, "fourier_step", repr(2 * math.pi)),
    ({"fouriercoeffs": (2, 2, 3, 4)}, "forward", "first-version"),
    ({"lucas_coeffs": (3, 2, 4)}, "forward", "first-version"),
    ({"coeffs": (2, 3, 4)}, "output_activation", "relu"),
    ({"charlier_coeffs": (3, 2, 4)}, "charlier_a", "2.0"),
]


def test_what_a_file_leaves_open_is_known(tmp_path: Path) -> None:
    """The reader lists the alternative interpretations that recorded outputs decide between."""
    for tensors, key, more in OPEN:
        path = save(tmp_path, {name: coefficients(*shape) for name, shape in tensors.items()})
        options = reading(path, family="taylorkan" if "coeffs" in tensors else None).options
        assert more in options.open[key]
        assert options.assumed[key] not in options.open[key]
        if key == "forward":
            assert f"--option forward={more}" in options.alternatives()["forward"]
            assert next(iter(options.assumed)) == "forward"


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of Basis_Functions: P_d of u by its definition, and numbers of a file that are not coefficients.

    `start` has the first polynomials, and `following` makes P_n from n, u and the earlier ones."""

    key: str
    start: list[Callable[[Any], Any]]
    following: Callable[[int, Any, list[Any]], Any]
    squash: str = "sigmoid"
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)

    def polynomials(self, x: Any, count: int) -> list[Any]:
        u = SQUASHES[self.squash](x)
        chain = [first(u) for first in self.start]
        while len(chain) < count:
            chain.append(self.following(len(chain), u, chain))
        return chain[:count]


SQUASHES = {"sigmoid": special.expit, "tanh": np.tanh, "raw": lambda x: x}


def nacci(key: str, *powers: int) -> Family:
    start = [lambda u: 0 * u, *(lambda u, p=p: u**p for p in powers)]
    return Family(key, start, lambda n, u, p: u * p[-1] + sum(p[-len(powers) - 1 : -1]))


def one(u: Any) -> Any:
    return 1 + 0 * u


def same(u: Any) -> Any:
    return u


ALPHA, A, B, C, D, Q = (float(np.float32(v)) for v in (0.7, 0.3, -0.4, 0.5, 0.25, 0.6))


def askey_wilson(n: int, u: Any, p: list[Any]) -> Any:
    abcd = A * B * C * D
    shift = (1 - A * B * Q ** (n - 1)) * (1 - C * D * Q ** (n - 1)) * (1 - abcd * Q ** (2 * n - 2))
    shift /= (1 - abcd * Q ** (2 * n - 1)) * (1 - abcd * Q ** (2 * n))
    back = (1 - Q**n) * (1 - A * B * Q ** (n - 1)) * (1 - C * D * Q ** (n - 1)) / (1 - abcd * Q ** (2 * n - 1))
    return ((2 * u - shift) * p[-1] - back * p[-2]) / (1 - Q**n)


def bannai_ito(n: int, u: Any, p: list[Any]) -> Any:
    s = n + B + C
    shift, back = (s + n - 1) * (s + n) / (2 * s), -(n + B - 1) * (n + C - 1) / (2 * s)
    return ((u - shift) * p[-1] - back * p[-2]) / s


def meixner_pollaczek(n: int, u: Any, p: list[Any]) -> Any:
    return ((2 * (n + ALPHA - 1) * math.sin(A) * u + n + 2 * ALPHA - 1) * p[-1] - n * p[-2]) / (n + ALPHA)


def askey_wilson_first(u: Any) -> Any:
    return (2 * (1 + A * B * Q) * u - (A + B) * (1 + C * D * Q)) / (1 + A * B * C * D * Q**2)


def meixner_first(u: Any) -> Any:
    return (2 * ALPHA + 1) * u + (2 * A - 1) * ALPHA


def gottlieb(n: int, u: Any, p: list[Any]) -> Any:
    return 2 * (ALPHA + n - 1) * u * p[-1] - (ALPHA + 2 * n - 2) * p[-2]


def al_salam(n: int, u: Any, p: list[Any]) -> Any:
    return (u - (A + Q**n)) * p[-1] - A * Q ** (n - 1) * p[-2]


NUMBERS = {"a": A, "b": B, "c": C, "d": D, "q": Q}
FAMILIES = {
    "gottliebkan": Family("gottlieb", [one, lambda u: 2 * ALPHA * u], gottlieb, numbers={"alpha": ALPHA}),
    "boubakerkan": Family("boubaker", [one, same], lambda n, u, p: (2 * n - 1) * u * p[-1] - (n - 1) * p[-2]),
    "charlierkan": Family(
        "charlier", [one, lambda u: 1 - u], lambda n, u, p: ((2 * n - 1 - u) * p[-1] - (n - 1) * p[-2]) / n
    ),
    "fermatkan": Family("fermat", [one], lambda n, u, p: (u ** (2**n) - 1) / 2),
    "vietapellkan": Family("vp", [lambda u: 2 * one(u), same], lambda n, u, p: u * p[-1] + p[-2], "tanh"),
    "narayanakan": Family("narayana", [one, same], lambda n, u, p: u * (p[-1] + p[-2])),
    "padokan": Family("pado", [one, same, lambda u: u**2], lambda n, u, p: u * p[-2] + p[-3]),
    "tribokan": nacci("tribo", 0, 1),
    "tetranaccikan": nacci("tetranacci", 0, 1, 2),
    "pentanaccikan": nacci("pentanacci", 0, 1, 1, 2),
    "hexanaccikan": nacci("hexanacci", 0, 1, 2, 2, 3),
    "heptanaccikan": nacci("heptanacci", 0, 1, 1, 2, 2, 3),
    "octanaccikan": nacci("octanacci", 0, 1, 2, 2, 3, 3, 4),
    "alsalamcarlitzkan": Family("al_salam_carlitz", [one, lambda u: u - A], al_salam, "tanh", {"a": A, "q": Q}),
    "bannaiitokan": Family(
        "bannai_ito", [one, lambda u: (u - A) / (B + C + 1)], bannai_ito, "tanh", {"a": A, "b": B, "c": C}
    ),
    "meixnerpollaczekkan": Family(
        "meixner_pollaczek", [one, meixner_first], meixner_pollaczek, "raw", {"lambda_": ALPHA, "phi": A}
    ),
    "askeywilsonkan": Family("askey_wilson", [one, askey_wilson_first], askey_wilson, "raw", NUMBERS),
}


def layer(family: str, n: int, m: int, count: int, scale: float = 1.0, seed: int = 0) -> Any:
    own = {f"{FAMILIES[family].key}_coeffs": coefficients(n, m, count, seed=seed) * np.float32(scale)}
    return own | {name: np.array([v], np.float32) for name, v in FAMILIES[family].numbers.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_basis_functions(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    rows = np.concatenate([X, ODD[1:]]) if family.squash != "raw" else X
    for degree in (1, 5, 9):
        tensors = layer(name, 3, 2, degree + 1)
        path = save(tmp_path, tensors)
        close(output(path, x=rows), series(family.polynomials(rows, degree + 1), tensors[f"{family.key}_coeffs"]))
        assert read(path)[1] == name


def test_boas_buck(tmp_path: Path) -> None:
    coef, a, b = coefficients(3, 2, 4), coefficients(4, seed=1), coefficients(4, seed=2)
    u, (p, q) = special.expit(X), (a.astype(float), b.astype(float))
    chain = [1 + 0 * u, (p[0] * u - q[0]) / (p[1] - q[1])]
    for n in (2, 3):
        chain.append(((p[n - 1] * u - q[n - 1]) * chain[-1] - (p[n - 2] - q[n - 2]) * chain[-2]) / (p[n] - q[n]))
    close(output(save(tmp_path, {"boas_buck_coeffs": coef, "a": a, "b": b})), series(chain, coef))
    same_ends = {"boas_buck_coeffs": coef, "a": a, "b": np.concatenate([b[:2], a[2:]])}
    refuse(tmp_path, same_ends, kind=InvalidKan)


def test_gottlieb_layers_of_bsrbf_kan_normalise_all_but_the_last(tmp_path: Path) -> None:
    parts = []
    for n, m in ((3, 4), (4, 2)):
        norm = {"layernorm.weight": coefficients(m, seed=7), "layernorm.bias": coefficients(m, seed=8)}
        parts.append({"gottlieb_coeffs": coefficients(n, m, 3), "alpha": np.array([ALPHA], np.float32), **norm})
    path = save(tmp_path, stacked(parts))
    for options, normed in (([], [True, False]), (["layernorm=all"], [True, True]), (["layernorm=none"], [False] * 2)):
        x = X
        for part, used in zip(parts, normed, strict=True):
            x = series(FAMILIES["gottliebkan"].polynomials(x, 3), part["gottlieb_coeffs"])
            if used:
                x = normalised(x, part["layernorm.weight"], part["layernorm.bias"])
        close(output(path, *options), x)


def test_taylor_powers_of_x_itself(tmp_path: Path) -> None:
    """The test gives the family, since other libraries use the same tensor name."""
    coef, rows = coefficients(2, 3, 4), np.concatenate([X, ODD])
    with np.errstate(all="ignore"):
        expected = series([rows**d for d in range(4)], coef.transpose(1, 0, 2))
        for bias in (coefficients(1, 2), np.zeros((1, 2), np.float32)):
            path = save(tmp_path, {"coeffs": coef} | ({"bias": bias} if bias.any() else {}))
            kan = reading(path, family="taylorkan").kan
            close(float64_reference.evaluate(kan, rows).y, expected + bias)
        kan = reading(path, "output_activation=relu", family="taylorkan").kan
        close(float64_reference.evaluate(kan, X).y, np.maximum(expected[: len(X)], 0))


def wavelets(**more: Any) -> dict[str, Any]:
    scale = np.random.default_rng(3).uniform(0.4, 2, size=(2, 3)).astype(np.float32)
    own = {"wavelet_weights": coefficients(2, 3, seed=1), "translation": coefficients(2, 3, seed=2), "scale": scale}
    return own | more


def wave(tensors: dict[str, Any], function: Callable[[Any], Any], factor: Any = 1.0) -> Any:
    t, s, w = (tensors[key].astype(float) for key in ("translation", "scale", "wavelet_weights"))
    return (function((X[:, None, :] - t) / s) * w * factor).sum(axis=2)


def dog(tensors: dict[str, Any], factor: Any = 1.0) -> Any:
    return wave(tensors, lambda u: -u * np.exp(-(u**2) / 2), factor)


def test_branches_and_factors_of_wav_kans_copies(tmp_path: Path) -> None:
    tensors = wavelets(weight1=coefficients(2, 3, seed=4))
    path, base = save(tmp_path, tensors), tensors["weight1"].T.astype(float)
    close(output(path, "wavelet_type=dog"), dog(tensors))
    close(output(path, "wavelet_type=dog", "base_branch=linear"), dog(tensors) + X @ base)
    close(output(path, "wavelet_type=dog", "base_branch=added"), dog(tensors) + X * special.expit(X) @ base)
    factor = 1 / np.sqrt(tensors["scale"].astype(float))
    close(output(path, "wavelet_type=dog", "wavelet_factor=inverse-sqrt"), dog(tensors, factor))
    negative = tensors | {"scale": -tensors["scale"]}
    refuse(tmp_path, negative, "wavelet_factor=inverse-sqrt", kind=InvalidKan)
    refuse(tmp_path, tensors, "wavelet_type=bump", hint="--module")


BASE = {"base_weight": coefficients(2, 3, seed=5), "bias": coefficients(2, seed=6)}


def base(x: Any = X) -> Any:
    return x * special.expit(x) @ BASE["base_weight"].T.astype(float) + BASE["bias"]


def test_ikans_chebyshev_and_taylor(tmp_path: Path) -> None:
    coef = coefficients(2, 3, 5)
    path = save(tmp_path, {"cheby_coeffs": coef, "cheby_orders": np.arange(5, dtype=np.float32), **BASE})
    turned = coef.transpose(1, 0, 2)
    close(output(path), series(chebyshev(np.tanh(np.clip(X, -1, 1)), 5), turned) + base())
    close(output(path, "forward=tanh"), series(chebyshev(np.tanh(X), 5), turned) + base())
    powers = save(tmp_path, {"taylor_coeffs": coef, **BASE})
    close(output(powers), series([X**d for d in range(5)], turned) + base())
    tanh = series([X**d for d in range(5)], turned) + np.tanh(X) @ BASE["base_weight"].T.astype(float) + BASE["bias"]
    close(output(powers, "base_activation=tanh"), tanh)


@pytest.mark.parametrize(("options", "ahead"), [((), 0), (("forward=ahead",), 1)])
def test_ikans_jacobi_recurrence(tmp_path: Path, options: tuple[str, ...], ahead: int) -> None:
    coef, a, b = coefficients(2, 3, 5), 0.5, 2.0
    u = np.tanh(X)
    chain = [1 + 0 * u, 0.5 * (2 * (a + 1) * u + a - b)]
    for n in range(2, 5):
        k = n - 1 + ahead
        s = 2 * k + a + b
        below = (s - 2) * (s - 1) * s
        first = ((s - 1) * (a * a - b * b) + 2 * k * (k + a + b) * (s - 2) * u) / below
        chain.append(first * chain[-1] - 2 * (k + a - 1) * (k + b - 1) * s / below * chain[-2])
    path = save(tmp_path, {"jacobi_coeffs": coef, **BASE})
    result = output(path, "jacobi_a=0.5", "jacobi_b=2", *options)
    close(result, series(chain, coef.transpose(1, 0, 2)) + base())
    assert read(path)[1] == "ikan-jacobi"


def test_ikans_fourier_and_wavelets(tmp_path: Path) -> None:
    f = coefficients(2, 2, 3, 4)
    angles = X[:, None, :, None] * np.arange(1, 5)
    expected = (np.cos(angles) * f[0].astype(float) + np.sin(angles) * f[1].astype(float)).sum(axis=(2, 3)) + base()
    np.testing.assert_allclose(output(save(tmp_path, {"fourier_coeffs": f, **BASE})), expected, atol=1e-11)
    tensors = wavelets() | BASE
    path = save(tmp_path, tensors)
    close(output(path, "wavelet_type=dog"), dog(tensors) + base())
    close(output(path), wave(tensors, lambda u: (u**2 - 1) * np.exp(-(u**2) / 2)) + base())
