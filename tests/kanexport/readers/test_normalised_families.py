"""Libraries whose layers end with a LayerNorm: torchkan and torch-conv-kan, compared with loops."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special
from scipy.interpolate import BSpline

from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import Reading, Tensors, exported, floats, normal, reading, refuse, save, stacked

ACTS = {"silu": lambda x: x / (1 + np.exp(-x)), "gelu": lambda x: x * special.ndtr(x), "tanh": np.tanh}
RANGES = ("x_min=-2,-0.5", "x_max=2.5,1.75")


def norm(z: Any, weight: Any, bias: Any) -> Any:
    apart = z - z.mean(axis=1, keepdims=True)
    return apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + 1e-5) * weight + bias


def lists(widths: list[int], make: Any) -> Tensors:
    """Numbered tensors of layers with a base branch and a LayerNorm; `make` adds those of layer `at`."""
    tensors: Tensors = {}
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        tensors |= make(at, n, m) | {
            f"base_weights.{at}": normal(at, m, n),
            f"layer_norms.{at}.weight": normal(at + 10, m),
            f"layer_norms.{at}.bias": normal(at + 20, m),
        }
    return floats(tensors)


def spline_lists(widths: list[int], k: int = 3, g: int = 4) -> Tensors:
    def make(at: int, n: int, m: int) -> Tensors:
        return {
            f"spline_weights.{at}": normal(at + 30, m, n, g + k),
            f"grid_{at}": np.tile(np.linspace(-1 - 0.5 * k, 1 + 0.5 * k, g + 2 * k + 1), (n, 1)),
            f"prelus.{at}.weight": normal(at + 40, 1),
        }

    return lists(widths, make)


def polynomial_lists(widths: list[int], degree: int) -> Tensors:
    return lists(widths, lambda at, n, m: {f"poly_weights.{at}": normal(at + 30, m, n * (degree + 1))})


def rows(n: int) -> Any:
    return np.random.default_rng(9).uniform(-2, 2, size=(10, n))


def same(folder: Path, tensors: Tensors, expected: Any, *options: str) -> Reading:
    path = save(folder, tensors)
    result = reading(path, *options)
    result.options.finish(result.family)
    y = float64_reference.evaluate(result.kan, rows(result.kan.n_inputs)).y
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    return result


def normalised(part: Tensors, z: Any, name: str) -> Any:
    return norm(z, part[f"{name}.weight"], part[f"{name}.bias"])


def prelu(z: Any, slope: Any) -> Any:
    return np.where(z > 0, z, slope * z)


@pytest.mark.parametrize("act", ["gelu", "silu"])
def test_torchkan(tmp_path: Path, act: str) -> None:
    tensors, x = spline_lists([3, 4, 5]), rows(3)
    part = floats(tensors, "float64")
    for at in range(2):
        z = ACTS[act](x) @ part[f"base_weights.{at}"].T
        for (i, t), j in itertools.product(enumerate(part[f"grid_{at}"]), range(z.shape[1])):
            spline = BSpline(t, part[f"spline_weights.{at}"][j, i], 3, extrapolate=True)
            inside = (x[:, i] >= t[0]) & (x[:, i] < t[-1])
            # scipy continues the outermost cells; the recursion fades within them.
            z[:, j] += np.where(inside, _faded(spline, x[:, i]), 0)
        x = prelu(normalised(part, z, f"layer_norms.{at}"), part[f"prelus.{at}.weight"])
    options = () if act == "gelu" else (f"base_activation={act}",)
    for prefix in ("module.", ""):
        result = same(tmp_path, {prefix + key: value for key, value in tensors.items()}, x, *options)
        assert (result.family, result.kan.edge_class) == ("torchkan", "A")
    layers = exported(tmp_path / "model.safetensors", *options).layers
    assert [[step.kind for step in layer.post_steps] for layer in layers] == [["layernorm", "prelu"]] * 2


def _faded(spline: BSpline, x: Any) -> Any:
    """The same function as a sum of elements, each zero outside its own knots."""
    total = np.zeros_like(x)
    for c, weight in enumerate(spline.c):
        element = BSpline.basis_element(spline.t[c : c + spline.k + 2], extrapolate=False)
        total += weight * np.nan_to_num(element(x))
    return total


def test_torchkan_in_a_larger_model_needs_a_prefix(tmp_path: Path) -> None:
    tensors = {f"kan.{key}": value for key, value in spline_lists([3, 4]).items()}
    tensors["conv.weight"] = np.ones((2, 2), np.float32)
    refuse(tmp_path, tensors, kind=FamilyError, said="conv.weight")
    assert reading(save(tmp_path, tensors), "prefix=kan.").kan.widths() == (3, 4)
    twice = tensors | {f"other.{key}": value for key, value in spline_lists([3, 4]).items()}
    refuse(tmp_path, twice, said="under 2 prefixes")


@pytest.mark.parametrize("degree", [0, 1, 4])
def test_kal_net_with_frozen_ranges(tmp_path: Path, degree: int) -> None:
    tensors = polynomial_lists([3, 4, 5], degree)
    part = floats(tensors, "float64")
    for polynomial, function in (("legendre", special.eval_legendre), ("chebyshev", special.eval_chebyt)):
        x = rows(3)
        for at, (low, high) in enumerate([(-2, 2.5), (-0.5, 1.75)]):
            u = 2 * (x - low) / (high - low) - 1
            basis = np.stack([function(d, u) for d in range(degree + 1)], axis=2)
            weights = part[f"poly_weights.{at}"].reshape(-1, x.shape[1], degree + 1)
            z = ACTS["silu"](x) @ part[f"base_weights.{at}"].T + np.einsum("bid,jid->bj", basis, weights)
            x = ACTS["silu"](normalised(part, z, f"layer_norms.{at}"))
        result = same(tmp_path, tensors, x, *RANGES, f"polynomial={polynomial}")
        assert (result.family, result.basis.kind) == ("kal-net", polynomial)
        assert "fixed range" in result.kan.notes[0]
    exported(tmp_path / "model.safetensors", *RANGES)


FROZEN = [
    (("x_min=-1,-1",), "depends on other rows"),
    (("x_min=-1", "x_max=1"), "expected 2 numbers"),
    (("x_min=-1,0,1", "x_max=1,2,3"), "expected 2 numbers"),
    (("x_min=-1,nan", "x_max=1,1"), "expected 2 numbers"),
    (("x_min=-1,a", "x_max=1,1"), "expected 2 numbers"),
    (("x_min=-1,1", "x_max=1,1"), "layer 1"),
]


def test_ranges_must_be_frozen_for_every_layer(tmp_path: Path) -> None:
    tensors = polynomial_lists([3, 4, 5], 3)
    for options, text in (*FROZEN, ((), "depends on other rows")):
        error = refuse(tmp_path, tensors, *options, kind=OptionError, said=text)
    assert "x.min() and x.max()" in error.hint
    assert "--option x_min=" in error.hint


def full_layer(kind: str, n: int, m: int, count: int, seed: int = 0) -> Tensors:
    """A layer of torch-conv-kan."""
    base, norm_name = ("base_weight", "layer_norm") if kind in ("kaln", "torch-conv-kan") else ("base_weights", "norm")
    key, shape = {
        "kaln": ("poly_weight", (m, n * count)),
        "kagn": ("grams_basis_weights", (n, m, count)),
        "kajn": ("jacobi_coeffs", (n, m, count)),
        "kabn": ("bernstein_coeffs", (n, m, count)),
        "torch-conv-kan": ("spline_weight", (m, n, count)),
    }[kind]
    tensors = {base: normal(seed, m, n), key: normal(seed + 1, *shape)}
    tensors |= {f"{norm_name}.weight": normal(seed + 2, m), f"{norm_name}.bias": normal(seed + 3, m)}
    if kind == "kagn":
        tensors["beta_weights"] = normal(seed + 4, count) / 10
    if kind == "torch-conv-kan":
        tensors["prelu.weight"] = normal(seed + 5, 1)
    return floats(tensors)


def gram(u: Any, beta: Any) -> list[Any]:
    actual = [np.ones_like(u), u]
    for i in range(2, len(beta)):
        n, m = i - 1, i
        b = ((m + n) * (m - n) * n**2) / (m**2 / (4 * n**2 - 1)) * beta[n]
        actual.append(u * actual[-1] - b * actual[-2])
    return actual[: len(beta)]


def basis_of(kind: str, part: Tensors, x: Any, count: int) -> tuple[Any, Any]:
    """Functions [D][B, I] and their coefficients [I, J, D]."""
    if kind == "kaln":
        coef = part["poly_weight"].reshape(-1, x.shape[1], count).transpose(1, 0, 2)
        return [special.eval_legendre(d, 2 * (x + 2) / 4.5 - 1) for d in range(count)], coef
    if kind == "kagn":
        return [ACTS["silu"](p) for p in gram(np.tanh(x), part["beta_weights"])], part["grams_basis_weights"]
    if kind == "kajn":
        return [special.eval_jacobi(d, 1, 1, np.tanh(x)) for d in range(count)], part["jacobi_coeffs"]
    return [np.ones_like(x)] * count, part["bernstein_coeffs"]  # de Casteljau's scheme on ones gives ones


@pytest.mark.parametrize("kind", ["kaln", "kagn", "kajn", "kabn"])
def test_torch_conv_kan_with_polynomials(tmp_path: Path, kind: str) -> None:
    base, norm_name = ("base_weight", "layer_norm") if kind == "kaln" else ("base_weights", "norm")
    x, options = rows(3), ("x_min=-2", "x_max=2.5") if kind == "kaln" else ()
    for count in (1, 2, 5):
        tensors = full_layer(kind, 3, 4, count)
        part = floats(tensors, "float64")
        basis, coef = basis_of(kind, part, x, count)
        z = ACTS["silu"](x) @ part[base].T + np.einsum("bid,ijd->bj", np.stack(basis, axis=2), coef)
        assert same(tmp_path, tensors, ACTS["silu"](normalised(part, z, norm_name)), *options).family == kind
    exported(tmp_path / "model.safetensors", *options)


def test_torch_conv_kan_with_splines(tmp_path: Path) -> None:
    """Its grid is in no file: order and range are options."""
    tensors = full_layer("torch-conv-kan", 3, 4, 7)
    part = floats(tensors, "float64")
    x, k = rows(3), 2
    cell = 4 / (7 - k)
    z = ACTS["gelu"](x) @ part["base_weight"].T
    knots = -1 + cell * (np.arange(7 + k + 1) - k)
    for i, j in np.ndindex(3, 4):
        z[:, j] += _faded(BSpline(knots, part["spline_weight"][j, i], k), x[:, i])
    expected = prelu(normalised(part, z, "layer_norm"), part["prelu.weight"])
    result = same(tmp_path, tensors, expected, "spline_order=2", "grid_min=-1", "grid_max=3")
    assert result.family == "torch-conv-kan"
    assert result.assumed == {"base_activation": "gelu", "layernorm_eps": "1e-5"}
    exported(tmp_path / "model.safetensors", "spline_order=2")
    assert reading(tmp_path / "model.safetensors").basis.parameters()["degree"] == "3"
    for wrong in ("spline_order=7", "spline_order=0", "grid_min=2", "grid_max=1e308"):
        refuse(tmp_path, tensors, wrong, kind=OptionError | InvalidKan)


def test_ranges_of_a_list_of_layers_go_by_their_order(tmp_path: Path) -> None:
    layers = [full_layer("kaln", 3, 4, 3), full_layer("kaln", 4, 5, 3, seed=1)]
    tensors = stacked(layers)
    result = reading(save(tmp_path, tensors), *RANGES)
    assert result.family == "kaln"
    actual = [layer.terms[0].support(layer.sources).core for layer in result.kan.layers]
    assert [(low[0], high[0]) for low, high in actual] == [(-2, 2.5), (-0.5, 1.75)]
    alone = reading(tmp_path / "model.safetensors", "prefix=layers.1.", "x_min=-3", "x_max=3")
    assert alone.kan.layers[0].terms[0].support(4).core[0][0] == -3


def test_a_bottleneck_is_refused_with_the_reason(tmp_path: Path) -> None:
    tensors = full_layer("kagn", 3, 4, 3) | {"inner_proj.weight": np.ones((2, 3), np.float32)}
    refuse(tmp_path, tensors, kind=InvalidKan, said="projects its sources")
