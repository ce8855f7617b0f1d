"""Libraries with polynomial or sine edges, compared with independent formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from kanexport.errors import FamilyError, InvalidKan, OptionError
from tests.support.small_checkpoints import beside_forward, check, read, refuse, save, stacked

Function = Callable[[int, float], float]  # the polynomial of a degree at a value of tanh

PLAIN: dict[str, tuple[str, Function, tuple[str, ...]]] = {
    "chebykan": ("cheby_coeffs", lambda d, u: math.cos(d * math.acos(u)), ()),
    "jacobikan": ("jacobi_coeffs", lambda d, u: special.eval_jacobi(d, 1, 1, u), ()),
    "jacobikan 0 2": ("jacobi_coeffs", lambda d, u: special.eval_jacobi(d, 0, 2, u), ("jacobi_a=0", "jacobi_b=2")),
    "legendrekan": ("legendre_coeffs", special.eval_legendre, ()),
    "hermitekan": ("hermite_coeffs", special.eval_hermite, ()),
    "cheby2kan": ("cheby2_coeffs", special.eval_chebyu, ()),
    "laguerrekan": ("laguerre_coeffs", lambda d, u: special.eval_genlaguerre(d, 3, u), ()),
    "laguerrekan 0.5": ("laguerre_coeffs", lambda d, u: special.eval_genlaguerre(d, 0.5, u), ("laguerre_alpha=0.5",)),
    "gegenbauerkan": ("gegenbauer_coeffs", lambda d, u: special.eval_gegenbauer(d, 3, u), ()),
    "besselkan": ("bessel_coeffs", lambda d, u: float(bessel_polynomial(d)(u)), ()),
    "fibonaccikan": ("fib_coeffs", lambda d, u: lucas_sequence(0, 1, d, u), ()),
    "lucaskan": ("lucas_coeffs", lambda d, u: lucas_sequence(2, u, d, u), ()),
}


def bessel_polynomial(degree: int) -> np.polynomial.Polynomial:
    """y_n(u) = sum_k (n + k)! / ((n - k)! k!) (u / 2)^k."""
    f = math.factorial
    return np.polynomial.Polynomial([f(degree + k) / (f(degree - k) * f(k) * 2**k) for k in range(degree + 1)])


def lucas_sequence(first: float, second: float, n: int, u: float) -> float:
    for _ in range(n):
        first, second = second, u * second + first
    return first


def coefficients(n: int, m: int, count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(n, m, count)).astype(np.float32)


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("case", PLAIN)
def test_polynomials_of_tanh(tmp_path: Path, case: str, degree: int) -> None:
    name, function, options = PLAIN[case]

    def edges(part: Any, row: list[float]) -> Any:
        values = np.array([[function(d, math.tanh(x)) for d in range(degree + 1)] for x in row])
        return np.einsum("ic,ijc->ij", values, part[name])

    sides = [(3, 4), (4, 1)] if degree == 2 else [(3, 2)]
    tensors = stacked([{name: coefficients(n, m, degree + 1, at)} for at, (n, m) in enumerate(sides)])
    prefixes = [f"layers.{at}." for at in range(len(sides))]
    manifest = check(save(tmp_path, tensors), tensors, edges, *options, prefixes=prefixes)
    assert manifest.source.family == case.partition(" ")[0]
    assert manifest.edge_class == "A"
    assert manifest.layers[0].bases[0].parameters["degree"] == str(degree)
    supplied = {key.partition("=")[0] for key in options}
    assert {key for key in beside_forward(manifest.source) if key not in supplied} == {
        "jacobikan": {"jacobi_a", "jacobi_b"} - supplied,
        "laguerrekan": {"laguerre_alpha"} - supplied,
        "gegenbauerkan": {"gegenbauer_alpha"},
    }.get(manifest.source.family, set())


def test_the_other_jacobi_layer_has_its_own_recurrence(tmp_path: Path) -> None:
    """OrthogPolyKANs' does not compute Jacobi polynomials; with a = b = 0 and degree 2 it is
    ((3 * 4 * 2 u) u - 2) / 8, where P_2 would be (3 u^2 - 1) / 2."""
    tensors = {"jacobi_coeffs": coefficients(2, 3, 3)}

    def edges(part: Any, row: list[float]) -> Any:
        u = np.tanh(row)
        values = np.stack([np.ones_like(u), u, (24 * u * u - 4 * 1) / 16], axis=1)
        return np.einsum("ic,ijc->ij", values, part["jacobi_coeffs"])

    options = ("forward=orthogpolykans", "jacobi_a=0", "jacobi_b=0")
    check(save(tmp_path, tensors), tensors, edges, *options)
    kan, _ = read(tmp_path / "model.safetensors", "forward=orthogpolykans")
    assert kan.layers[0].terms[0].basis.parameters()["a"] == "3.0"


def test_the_degrees_of_chebykan_are_checked(tmp_path: Path) -> None:
    tensors = {"cheby_coeffs": coefficients(2, 3, 4), "arange": np.arange(4)}
    assert read(save(tmp_path, tensors))[1] == "chebykan"
    for wrong in (np.arange(1, 5), np.arange(3)):
        error = refuse(tmp_path, tensors | {"arange": wrong})
        assert isinstance(error, InvalidKan)
        assert "arange" in error.message


@pytest.mark.parametrize("option", ["jacobi_a=1e300", "jacobi_a=nan", "jacobi_a=x", "forward=mine", "a=1"])
def test_strange_jacobi_numbers_end_in_a_typed_error(tmp_path: Path, option: str) -> None:
    assert isinstance(refuse(tmp_path, {"jacobi_coeffs": coefficients(2, 3, 6)}, option), OptionError | InvalidKan)


def test_polynomials_that_are_zero_at_an_end_are_emitted_another_way(tmp_path: Path) -> None:
    tensors = {"jacobi_coeffs": coefficients(2, 3, 3)}

    def edges(part: Any, row: list[float]) -> Any:
        u = np.tanh(row)  # a = -1, b = 1: P_1 = u - 1, and P_2 = (3 u) (u - 1) / 2
        return np.einsum("ic,ijc->ij", np.stack([np.ones_like(u), u - 1, 1.5 * u * (u - 1)], 1), part["jacobi_coeffs"])

    check(save(tmp_path, tensors), tensors, edges, "jacobi_a=-1")
    kan, _ = read(tmp_path / "model.safetensors", "jacobi_a=-1")
    assert not kan.layers[0].terms[0].basis.from_ends
    assert read(tmp_path / "model.safetensors")[0].layers[0].terms[0].basis.from_ends


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_fourier(tmp_path: Path, count: int, bias: bool) -> None:
    rng = np.random.default_rng(1)
    tensors = {"fouriercoeffs": rng.normal(size=(2, 3, 2, count)).astype(np.float32)}
    if bias:
        tensors["bias"] = rng.normal(size=(1, 3)).astype(np.float32)

    def edges(part: Any, row: list[float]) -> Any:
        f = part["fouriercoeffs"]
        return [
            [
                sum(
                    f[0, j, i, q - 1] * math.cos(q * x) + f[1, j, i, q - 1] * math.sin(q * x)
                    for q in range(1, count + 1)
                )
                for j in range(3)
            ]
            for i, x in enumerate(row)
        ]

    manifest = check(save(tmp_path, tensors), tensors, edges, bias="bias" if bias else "")
    assert manifest.source.family == "fourierkan"


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("count", [1, 4])
def test_sine(tmp_path: Path, count: int, old: bool) -> None:
    """Before frequencies were trained they were 1, and amplitudes had another name."""
    rng = np.random.default_rng(2)
    name = "base_fouriercoeffs" if old else "amplitudes"
    tensors = {name: rng.normal(size=(3, 2, count)), "phase": rng.uniform(0, 4, size=(1, 1, 2, count))}
    tensors |= {} if old else {"freq": rng.normal(size=(1, 1, 1, count)), "bias": rng.normal(size=(1, 3))}
    tensors = {key: value.astype(np.float32) for key, value in tensors.items()}

    def edges(part: Any, row: list[float]) -> Any:
        w = np.ones(count) if old else part["freq"][0, 0, 0]
        waves = np.sin(np.array(row)[:, None] * w + part["phase"][0, 0])
        return np.einsum("iq,jiq->ij", waves, part[name])

    manifest = check(save(tmp_path, tensors), tensors, edges, bias="" if old else "bias")
    assert manifest.source.family == "sinekan"
    if not old:
        del tensors["freq"]
        assert isinstance(refuse(tmp_path, tensors), FamilyError)


@pytest.mark.parametrize("seed", range(3))
def test_float64_checkpoints_stay_float64(tmp_path: Path, seed: int) -> None:
    tensors = {"legendre_coeffs": np.random.default_rng(seed).normal(size=(2, 2, 5))}
    assert read(save(tmp_path, tensors))[0].dtype == "float64"


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("alpha", "beta", "iota"), "JacobiRKAN"),
        (("alpha", "beta", "gamma"), "FractionalJacobiNeuralBlock"),
        (("alpha_p", "beta_p", "zeta_p", "w_p", "alpha_q", "beta_q", "zeta_q", "w_q"), "PadeRKAN"),
    ],
)
def test_shared_activations_are_refused_by_name(tmp_path: Path, names: tuple[str, ...], what: str) -> None:
    tensors = {f"1.{name}": np.ones(1, np.float32) for name in names} | {"0.weight": np.ones((3, 2), np.float32)}
    error = refuse(tmp_path, tensors)
    assert isinstance(error, FamilyError)
    assert what in error.message
    assert "that all nodes share" in error.message
