"""Libraries with polynomial or sine edges, compared with independent formulas."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from kanexport.errors import FamilyError, InvalidKan, OptionError
from tests.support import small_checkpoints as small

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
    return small.normal(seed, n, m, count).astype(np.float32)


def edges_of(name: str, function: Function) -> small.Edges:
    def edges(part: small.Tensors, row: list[float]) -> Any:
        values = [[function(d, math.tanh(x)) for d in range(part[name].shape[2])] for x in row]
        return np.einsum("ic,ijc->ij", values, part[name])

    return edges


@pytest.mark.parametrize("case", PLAIN)
def test_polynomials_of_tanh(tmp_path: Path, case: str) -> None:
    name, function, options = PLAIN[case]
    family, supplied = case.partition(" ")[0], {key.partition("=")[0] for key in options}
    own = {"jacobikan": {"jacobi_a", "jacobi_b"}, "laguerrekan": {"laguerre_alpha"}}
    own["gegenbauerkan"] = {"gegenbauer_alpha"}
    for degree in (0, 1, 2, 5, 9):
        sides = [(3, 4), (4, 1)] if degree == 2 else [(3, 2)]
        tensors = small.stacked([{name: coefficients(n, m, degree + 1, at)} for at, (n, m) in enumerate(sides)])
        prefixes = [f"layers.{at}." for at in range(len(sides))]
        path = small.save(tmp_path, tensors)
        result = small.check(path, tensors, edges_of(name, function), *options, prefixes=prefixes)
        assert (result.family, result.kan.edge_class) == (family, "A")
        assert result.basis.parameters()["degree"] == str(degree)
        assert set(result.assumed) - supplied == own.get(family, set()) - supplied


def test_the_other_jacobi_layer_has_its_own_recurrence(tmp_path: Path) -> None:
    """OrthogPolyKANs' does not compute Jacobi polynomials; with a = b = 0 and degree 2 it is
    ((3 * 4 * 2 u) u - 2) / 8, where P_2 would be (3 u^2 - 1) / 2."""
    tensors = {"jacobi_coeffs": coefficients(2, 3, 3)}

    def edges(part: Any, row: list[float]) -> Any:
        u = np.tanh(row)
        values = np.stack([np.ones_like(u), u, (24 * u * u - 4 * 1) / 16], axis=1)
        return np.einsum("ic,ijc->ij", values, part["jacobi_coeffs"])

    result = small.check(
        small.save(tmp_path, tensors), tensors, edges, "forward=orthogpolykans", "jacobi_a=0", "jacobi_b=0"
    )
    small.exported(tmp_path / "model.safetensors", "forward=orthogpolykans", "jacobi_a=0", "jacobi_b=0")
    assert result.basis.parameters()["a"] == "0.0"
    assert small.reading(tmp_path / "model.safetensors", "forward=orthogpolykans").basis.parameters()["a"] == "3.0"


def test_the_degrees_of_chebykan_are_checked(tmp_path: Path) -> None:
    tensors = {"cheby_coeffs": coefficients(2, 3, 4), "arange": np.arange(4)}
    assert small.read(small.save(tmp_path, tensors))[1] == "chebykan"
    for wrong in (np.arange(1, 5), np.arange(3)):
        small.refuse(tmp_path, tensors | {"arange": wrong}, kind=InvalidKan, said="arange")


def test_strange_jacobi_numbers_end_in_a_typed_error(tmp_path: Path) -> None:
    for option in ("jacobi_a=1e300", "jacobi_a=nan", "jacobi_a=x", "forward=mine", "a=1"):
        small.refuse(tmp_path, {"jacobi_coeffs": coefficients(2, 3, 6)}, option, kind=OptionError | InvalidKan)


def test_polynomials_that_are_zero_at_an_end_are_emitted_another_way(tmp_path: Path) -> None:
    tensors = {"jacobi_coeffs": coefficients(2, 3, 3)}

    def edges(part: Any, row: list[float]) -> Any:
        u = np.tanh(row)  # a = -1, b = 1: P_1 = u - 1, and P_2 = (3 u) (u - 1) / 2
        return np.einsum("ic,ijc->ij", np.stack([np.ones_like(u), u - 1, 1.5 * u * (u - 1)], 1), part["jacobi_coeffs"])

    path = small.save(tmp_path, tensors)
    assert not small.check(path, tensors, edges, "jacobi_a=-1").basis.from_ends
    small.exported(path, "jacobi_a=-1")
    assert small.reading(path).basis.from_ends


def waves(numbers: Any, step: float = 1.0) -> small.Edges:
    """Cosines f[0] and sines f[1] of these harmonics; both are [O, I, Q]."""

    def edges(part: small.Tensors, row: list[float]) -> Any:
        f, angles = part["fouriercoeffs"][..., : len(numbers)], np.array(row)[:, None] * numbers * step
        return np.einsum("jiq,iq->ij", f[0], np.cos(angles)) + np.einsum("jiq,iq->ij", f[1], np.sin(angles))

    return edges


STEPS = [((), 1, 1.0), (("forward=first-version",), 0, 1.0)]
STEPS += [((f"fourier_step={step!r}",), 1, step) for step in (2 * math.pi, 0.5)]


@pytest.mark.parametrize("bias", [True, False])
def test_fourier(tmp_path: Path, bias: bool) -> None:
    for count in (1, 3, 17):
        tensors = {"fouriercoeffs": small.normal(1, 2, 3, 2, count)} | ({"bias": small.normal(2, 1, 3)} if bias else {})
        tensors = small.floats(tensors)
        path = small.save(tmp_path, tensors)
        for options, first, step in STEPS:
            edges = waves(np.arange(first, count + first), step)
            assert small.check(path, tensors, edges, *options, bias="bias").family == "fourierkan"
    small.exported(path)


def test_a_trained_number_of_harmonics(tmp_path: Path) -> None:
    f = small.normal(0, 2, 2, 3, 5).astype(np.float32)
    for number, used in ((3.4, 3), (2.5, 2), (0.0, 1), (5.0, 5)):
        tensors = {"fouriercoeffs": f, "gridsize_param": np.array(number, np.float32)}
        small.check(small.save(tmp_path, tensors), tensors, waves(np.arange(1, used + 1)))
    small.refuse(tmp_path, {"fouriercoeffs": f, "gridsize_param": np.array(6, np.float32)}, kind=InvalidKan)


@pytest.mark.parametrize("old", [True, False])
def test_sine(tmp_path: Path, old: bool) -> None:
    """Before frequencies were trained they were 1, and amplitudes had another name."""
    name = "base_fouriercoeffs" if old else "amplitudes"

    def edges(part: small.Tensors, row: list[float]) -> Any:
        w = 1 if old else part["freq"][0, 0, 0]
        return np.einsum("iq,jiq->ij", np.sin(np.array(row)[:, None] * w + part["phase"][0, 0]), part[name])

    for count in (1, 4):
        tensors = {name: small.normal(2, 3, 2, count), "phase": 2 + small.normal(3, 1, 1, 2, count)}
        tensors |= {} if old else {"freq": small.normal(4, 1, 1, 1, count), "bias": small.normal(5, 1, 3)}
        tensors = small.floats(tensors)
        path = small.save(tmp_path, tensors)
        assert small.check(path, tensors, edges, bias="bias").family == "sinekan"
    small.exported(path)
    if not old:
        del tensors["freq"]
        small.refuse(tmp_path, tensors, kind=FamilyError)


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
    small.refuse(tmp_path, tensors, kind=FamilyError, said=[what, "that all nodes share"])
