"""Layers with ambiguous tensor names: without outputs the export lists the candidates; recorded outputs decide."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from kanexport.errors import MissingFunctions, OpenQuestion, OutputsDiffer
from kanexport.formats import checkpoint
from kanexport.readers.common import roles
from kanexport.shared import manifest
from kanexport.shared.manifest import EXPECTED_OUTPUTS
from kanexport.verify import float64_reference, graph_runner
from tests.support import golden_cases
from tests.support.small_checkpoints import decided, exported, reading, refuse, save
from tests.support.tiers import full, spread

Array = np.ndarray
Tensors = dict[str, Array]
Forward = Callable[[Array], Array]

N, M, K = 3, 4, 6
ROWS = 90
RNG = np.random.default_rng(11)


def normal(*shape: int) -> Array:
    return RNG.normal(0, 0.5, size=shape).astype(np.float32)


def polynomials(function: Callable[[int, Array], Array], u: Array) -> Array:
    """[..., K]"""
    return np.stack([function(k, u) for k in range(K)], axis=-1)


def chebyshev(u: Array) -> Array:
    return polynomials(special.eval_chebyt, u)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def bspline(x: Array, knots: Array, degree: int = 3) -> Array:
    """[..., G + k] of x [...] and knots [..., T]."""
    x = x[..., None]
    values = ((x >= knots[..., :-1]) & (x < knots[..., 1:])).astype(float)
    for p in range(1, degree + 1):
        rise = (x - knots[..., : -p - 1]) / (knots[..., p:-1] - knots[..., : -p - 1])
        fall = (knots[..., p + 1 :] - x) / (knots[..., p + 1 :] - knots[..., 1:-p])
        values = rise * values[..., :-1] + fall * values[..., 1:]
    return values


COEF = normal(M, N, K)
TURNED = np.ascontiguousarray(COEF.transpose(1, 0, 2))
BASE, BIAS = normal(M, N), normal(M)
CENTRES, WIDTHS = np.sort(normal(N, K) * 3, axis=1), np.exp(normal(N, K))
EDGE_CENTRES, EDGE_WIDTHS = 2 * normal(M, N, K), np.exp(normal(M, N, K))
KNOTS = np.sort(3 * normal(M, N, K + 4), axis=2)
GRID = np.linspace(-2, 2, K).astype(np.float32)
SERIES = normal(2, M, N, K)
STEPS = np.arange(1, K + 1)


def summed(values: Array, coef: Array = COEF) -> Array:
    """[B, I, K] or [B, O, I, K] -> [B, O]."""
    return np.einsum("bik,oik->bo" if values.ndim == 3 else "boik,oik->bo", values, coef.astype(float))


# By description: the tensors, the forward, and the facts that recorded outputs decide (or that the export assumes).
CASES: dict[str, tuple[Tensors, Forward, dict[str, str]]] = {
    "Chebyshev polynomials of tanh(x)": (
        {"coeffs": COEF},
        lambda x: summed(chebyshev(np.tanh(x))),
        {"forward": "chebyshev-of-tanh", "roles": "coeffs:oik"},
    ),
    "Legendre polynomials of x, sources first": (
        {"net.weights": TURNED},
        lambda x: summed(polynomials(special.eval_legendre, x)),
        {"forward": "legendre-of-x", "roles": "weights:iok"},
    ),
    "powers of sigmoid(x) with a bias": (
        {"coef": COEF, "b": BIAS},
        lambda x: summed(polynomials(lambda k, u: u**k, special.expit(x))) + BIAS,
        {"forward": "monomials-of-sigmoid"},
    ),
    "Hermite polynomials of probability, of a clamp with an epsilon": (
        {"coefficients": COEF},
        lambda x: summed(polynomials(special.eval_hermitenorm, np.clip(x, -1 + 1e-3, 1 - 1e-3))),
        {"forward": "hermite-prob-of-clip-eps", "squash_eps": "1e-3"},
    ),
    "a Fourier series": (
        {"coef": SERIES},
        lambda x: summed(np.cos(x[:, :, None] * STEPS), SERIES[0]) + summed(np.sin(x[:, :, None] * STEPS), SERIES[1]),
        {"forward": "fourier-of-x"},
    ),
    "Gaussians with centres and widths for each source": (
        {"w": COEF, "mu": CENTRES, "log_sigma": np.log(WIDTHS)},
        lambda x: summed(np.exp(-(((x[:, :, None] - CENTRES) / WIDTHS) ** 2) / 2)),
        {"forward": "gaussian-exp-sigma-of-x"},
    ),
    "Gaussians with centres and widths for each edge, and a Linear beside them": (
        {"alpha": COEF, "c": EDGE_CENTRES, "s": EDGE_WIDTHS, "base.weight": BASE, "base.bias": BIAS},
        lambda x: summed(np.exp(-EDGE_WIDTHS * (x[:, None, :, None] - EDGE_CENTRES) ** 2)) + silu(x) @ BASE.T + BIAS,
        {"forward": "gaussian-beta-of-x", "base_activation": "silu"},
    ),
    "Gaussians on a row of centres, before a Linear": (
        {"rbf.centers": GRID, "lin.weight": COEF.reshape(M, N * K), "lin.bias": BIAS},
        lambda x: summed(np.exp(-(((x[:, :, None] - GRID) / 0.7) ** 2))) + BIAS,
        {"forward": "gaussian-of-x", "denominator": "0.7"},
    ),
    "splines of tanh(x) with knots for each edge, beside W x": (
        {"ctrl": COEF, "tt": KNOTS, "wb": BASE},
        lambda x: summed(bspline(np.repeat(np.tanh(x)[:, None], M, axis=1), KNOTS.astype(float))) + x @ BASE.T,
        {"forward": "bspline-of-tanh", "base_activation": "identity"},
    ),
    "one MLP for each source": (
        {"w1": CENTRES, "b1": WIDTHS, "w2": COEF, "b2": BIAS},
        lambda x: summed(np.maximum(x[:, :, None] * CENTRES + WIDTHS, 0)) + BIAS,
        {"forward": "mlp-relu-of-x"},
    ),
}


def recorded(path: Path, forward: Forward, *options: str) -> manifest.Manifest:
    x = np.random.default_rng(5).normal(0, 1.2, size=(ROWS, N)).astype(np.float32)
    result = decided(path, x, forward(x.astype(float)).astype(np.float32), *options)
    new = 2 * np.random.default_rng(6).normal(size=(ROWS, N)).astype(np.float32)
    actual = graph_runner.run(graph_runner.session((result.directory / "model.onnx").read_bytes()), {"x": new})["y"]
    expected = forward(new.astype(float))
    assert np.abs(actual - expected).max() <= 2e-5 * np.abs(expected).max()
    return result.manifest


def test_what_is_told_is_read(tmp_path: Path) -> None:
    x = np.random.default_rng(4).normal(0, 1.2, size=(9, N))
    for tensors, forward, told in CASES.values():
        kan = reading(save(tmp_path, tensors), *(f"{key}={value}" for key, value in told.items())).kan
        np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, forward(x), rtol=0, atol=1e-6)


@spread("what", CASES, 2)
def test_alone_it_is_ambiguous_and_recorded_outputs_decide(what: str, tmp_path: Path) -> None:
    tensors, forward, reported = CASES[what]
    error = refuse(tmp_path, tensors, kind=OpenQuestion, said="are ambiguous")
    assert reported["forward"] in error.among
    assert "--expected-outputs" in error.hint
    document = recorded(save(tmp_path, tensors), forward)
    assert document.verification_basis == EXPECTED_OUTPUTS
    assert reported.items() <= {**document.source.options_assumed, **document.source.options_decided}.items()


def test_the_user_says_whose_functions_they_are(tmp_path: Path) -> None:
    """A file of a known family is not ambiguous."""
    path = save(tmp_path, {"coeffs": COEF})
    assert exported(path, "forward=monomials-of-x", "roles=coeffs:oik").source.family == "by-shape"
    assert exported(path, family="taylorkan").source.family == "taylorkan"


@full("combination")
def test_no_role_is_told_by_a_name_alone(tmp_path: Path) -> None:
    """Centres have the name of widths, and widths that of centres."""
    tensors = {"w": COEF, "sigma": CENTRES, "centers": WIDTHS}
    forward = CASES["Gaussians with centres and widths for each source"][1]
    path = save(tmp_path, tensors)
    actual = roles.find(checkpoint.load(path).tensors)
    assert actual is not None
    assert len(actual.roles) > 1
    document = recorded(path, forward)
    assert "sigma:points" in document.source.options_decided["roles"]


@full("combination")
def test_what_no_reading_gives_is_refused_with_the_nearest_by_shape_of_the_function(tmp_path: Path) -> None:
    """The nearest is not the candidate that is small everywhere."""
    path, alone = save(tmp_path, {"coeffs": COEF}), ("roles=coeffs:oik", "before=nothing", "after=nothing")
    with pytest.raises(OutputsDiffer, match=r"forward=chebyshev-of-tanh.*off by") as error:
        recorded(path, lambda x: 3 * summed(chebyshev(np.tanh(x))) + 0.5, *alone)
    assert error.value.exit_code == 3


@pytest.fixture
def symbolic() -> tuple[Tensors, Array, Array]:
    """Weights of pykan whose config is lost, and recorded rows and outputs."""
    case = next(case for case in golden_cases.cases() if case.name == "pykan-hello-symbolic")
    reference = case.reference()
    return dict(checkpoint.load(case.path).tensors), reference["x"], reference["y"]


@full("combination")
def test_functions_of_symbolic_edges_are_found_in_pykans_table(symbolic: Any, tmp_path: Path) -> None:
    tensors, x, y = symbolic
    refuse(tmp_path, tensors, kind=MissingFunctions)
    chosen = decided(tmp_path / "model.safetensors", x, y).manifest.source.options_decided
    assert [chosen[f"symbolic {edge}"] for edge in ("0,0,0", "0,1,0", "1,0,0")] == ["sin", "x^2", "exp"]


def test_functions_that_are_in_no_table_are_named_as_missing(symbolic: Any, tmp_path: Path) -> None:
    tensors, x, _ = symbolic
    tensors["symbolic_fun.0.mask"] = 0 * tensors["symbolic_fun.0.mask"]
    with pytest.raises(OutputsDiffer, match=r"\(1,0,0\); no functions of the table of pykan reproduce") as error:
        decided(save(tmp_path, tensors), x, np.sin(7 * x[:, :1]))
    assert "--symbolic 1,0,0=NAME" in error.value.hint


def test_recorded_rows_tell_how_many_sources_a_lone_layer_of_pykan_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    tensors = {"coef": normal(N * M, 8), "scale_base": normal(N * M), "scale_sp": normal(N * M)}
    tensors["grid"] = np.sort(rng.normal(size=(N * M, 6)), axis=1).astype(np.float32)
    refuse(tmp_path, tensors, hint="--option in_dim")
    path = save(tmp_path, tensors)
    x = rng.normal(size=(40, 2, N)).astype(np.float32)  # rows over tokens
    known = reading(path, f"in_dim={N}").kan
    y = float64_reference.evaluate(known, x.reshape(-1, N).astype(float)).y.reshape(40, 2, M)
    assert decided(path, x, y).manifest.source.options_decided["in_dim"] == str(N)
