"""Libraries whose layers end with a LayerNorm: torchkan and torch-conv-kan, compared with loops."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special
from scipy.interpolate import BSpline

from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import beside_forward, read, refuse, save

ACTS = {"silu": lambda x: x / (1 + np.exp(-x)), "gelu": lambda x: x * special.ndtr(x), "tanh": np.tanh}
RANGES = ("x_min=-2,-0.5", "x_max=2.5,1.75")


def norm(z: Any, weight: Any, bias: Any) -> Any:
    apart = z - z.mean(axis=1, keepdims=True)
    return apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + 1e-5) * weight + bias


def cast(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def spline_lists(widths: list[int], k: int = 3, g: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        tensors |= {
            f"base_weights.{at}": rng.normal(size=(m, n)),
            f"spline_weights.{at}": rng.normal(size=(m, n, g + k)),
            f"grid_{at}": np.tile(np.linspace(-1 - 0.5 * k, 1 + 0.5 * k, g + 2 * k + 1), (n, 1)),
            f"layer_norms.{at}.weight": rng.normal(size=m),
            f"layer_norms.{at}.bias": rng.normal(size=m),
            f"prelus.{at}.weight": rng.normal(size=1),
        }
    return cast(tensors)


def polynomial_lists(widths: list[int], degree: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    tensors: dict[str, Any] = {}
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        tensors |= {
            f"base_weights.{at}": rng.normal(size=(m, n)),
            f"poly_weights.{at}": rng.normal(size=(m, n * (degree + 1))),
            f"layer_norms.{at}.weight": rng.normal(size=m),
            f"layer_norms.{at}.bias": rng.normal(size=m),
        }
    return cast(tensors)


def rows(n: int) -> Any:
    return np.random.default_rng(9).uniform(-2, 2, size=(10, n))


def same(folder: Path, tensors: dict[str, Any], expected: Any, *options: str, n: int) -> Any:
    """Read, evaluate and export; the manifest."""
    path = save(folder, tensors)
    y = float64_reference.evaluate(read(path, *options)[0], rows(n)).y
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    return export(Request(path=path, repository=folder / "models", options=options)).manifest


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("act", ["gelu", "silu"])
def test_torchkan(tmp_path: Path, act: str, prefix: str) -> None:
    tensors = spline_lists([3, 4, 5])
    x = rows(3)
    for at in range(2):
        part = {key: value.astype(np.float64) for key, value in tensors.items()}
        z = ACTS[act](x) @ part[f"base_weights.{at}"].T
        for i, t in enumerate(part[f"grid_{at}"]):
            for j in range(z.shape[1]):
                spline = BSpline(t, part[f"spline_weights.{at}"][j, i], 3, extrapolate=True)
                inside = (x[:, i] >= t[0]) & (x[:, i] < t[-1])
                # scipy continues the outermost cells; the recursion fades within them.
                z[:, j] += np.where(inside, _faded(spline, x[:, i]), 0)
        z = norm(z, part[f"layer_norms.{at}.weight"], part[f"layer_norms.{at}.bias"])
        x = np.where(z > 0, z, part[f"prelus.{at}.weight"] * z)
    options = () if act == "gelu" else (f"base_activation={act}",)
    manifest = same(tmp_path, {prefix + key: value for key, value in tensors.items()}, x, *options, n=3)
    assert manifest.source.family == "torchkan"
    assert manifest.edge_class == "A"
    assert [[step.kind for step in layer.post_steps] for layer in manifest.layers] == [["layernorm", "prelu"]] * 2


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
    error = refuse(tmp_path, tensors)
    assert isinstance(error, FamilyError)
    assert "conv.weight" in error.message
    assert read(save(tmp_path, tensors), "prefix=kan.")[0].widths() == (3, 4)
    twice = tensors | {f"other.{key}": value for key, value in spline_lists([3, 4]).items()}
    assert "under 2 prefixes" in refuse(tmp_path, twice).message


def test_a_missing_list_item_is_named(tmp_path: Path) -> None:
    for key in ("base_weights.1", "grid_1", "prelus.1.weight", "layer_norms.1.bias"):
        tensors = spline_lists([3, 4, 5])
        del tensors[key]
        assert key in refuse(tmp_path, tensors).message
    tensors = spline_lists([3, 4, 5])
    del tensors["spline_weights.1"]
    assert isinstance(refuse(tmp_path, tensors), FamilyError)  # what is left over is named


@pytest.mark.parametrize(
    ("polynomial", "function"), [("legendre", special.eval_legendre), ("chebyshev", special.eval_chebyt)]
)
@pytest.mark.parametrize("degree", [0, 1, 4])
def test_kal_net_with_frozen_ranges(tmp_path: Path, polynomial: str, function: Any, degree: int) -> None:
    tensors = polynomial_lists([3, 4, 5], degree)
    x = rows(3)
    for at, (low, high) in enumerate([(-2, 2.5), (-0.5, 1.75)]):
        part = {key: value.astype(np.float64) for key, value in tensors.items()}
        u = 2 * (x - low) / (high - low) - 1
        basis = np.stack([function(d, u) for d in range(degree + 1)], axis=2)
        weights = part[f"poly_weights.{at}"].reshape(-1, x.shape[1], degree + 1)
        z = ACTS["silu"](x) @ part[f"base_weights.{at}"].T + np.einsum("bid,jid->bj", basis, weights)
        x = ACTS["silu"](norm(z, part[f"layer_norms.{at}.weight"], part[f"layer_norms.{at}.bias"]))
    manifest = same(tmp_path, tensors, x, *RANGES, f"polynomial={polynomial}", n=3)
    assert manifest.source.family == "kal-net"
    assert "fixed range" in manifest.notes[0]
    assert manifest.layers[0].bases[0].kind == polynomial


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "depends on other rows"),
        (("x_min=-1,-1",), "depends on other rows"),
        (("x_min=-1", "x_max=1"), "expected 2 numbers"),
        (("x_min=-1,0,1", "x_max=1,2,3"), "expected 2 numbers"),
        (("x_min=-1,nan", "x_max=1,1"), "expected 2 numbers"),
        (("x_min=-1,a", "x_max=1,1"), "expected 2 numbers"),
        (("x_min=-1,1", "x_max=1,1"), "layer 1"),
    ],
)
def test_ranges_must_be_frozen_for_every_layer(tmp_path: Path, options: tuple[str, ...], text: str) -> None:
    error = refuse(tmp_path, polynomial_lists([3, 4, 5], 3), *options)
    assert isinstance(error, OptionError)
    assert text in error.message
    if not options:
        assert "x.min() and x.max()" in error.hint
        assert "--option x_min=" in error.hint


def full_layer(kind: str, n: int, m: int, count: int, seed: int = 0) -> dict[str, Any]:
    """A layer of torch-conv-kan."""
    rng = np.random.default_rng(seed)
    base, norm_name = ("base_weight", "layer_norm") if kind in ("kaln", "torch-conv-kan") else ("base_weights", "norm")
    functions = {
        "kaln": ("poly_weight", (m, n * count)),
        "kagn": ("grams_basis_weights", (n, m, count)),
        "kajn": ("jacobi_coeffs", (n, m, count)),
        "kabn": ("bernstein_coeffs", (n, m, count)),
        "torch-conv-kan": ("spline_weight", (m, n, count)),
    }[kind]
    tensors = {base: rng.normal(size=(m, n)), functions[0]: rng.normal(size=functions[1])}
    tensors |= {f"{norm_name}.weight": rng.normal(size=m), f"{norm_name}.bias": rng.normal(size=m)}
    if kind == "kagn":
        tensors["beta_weights"] = rng.normal(size=count) / 10
    if kind == "torch-conv-kan":
        tensors["prelu.weight"] = rng.normal(size=1)
    return cast(tensors)


def gram(u: Any, beta: Any) -> list[Any]:
    actual = [np.ones_like(u), u]
    for i in range(2, len(beta)):
        n, m = i - 1, i
        b = ((m + n) * (m - n) * n**2) / (m**2 / (4 * n**2 - 1)) * beta[n]
        actual.append(u * actual[-1] - b * actual[-2])
    return actual[: len(beta)]


@pytest.mark.parametrize("kind", ["kaln", "kagn", "kajn", "kabn"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_torch_conv_kan_with_polynomials(tmp_path: Path, kind: str, count: int) -> None:
    tensors = full_layer(kind, 3, 4, count)
    part = {key: value.astype(np.float64) for key, value in tensors.items()}
    x, act = rows(3), ACTS["silu"]
    base, norm_name = ("base_weight", "layer_norm") if kind == "kaln" else ("base_weights", "norm")
    if kind == "kaln":
        u, coef = 2 * (x + 2) / 4.5 - 1, part["poly_weight"].reshape(4, 3, count).transpose(1, 0, 2)
        basis = [special.eval_legendre(d, u) for d in range(count)]
    elif kind == "kagn":
        basis, coef = [act(p) for p in gram(np.tanh(x), part["beta_weights"])], part["grams_basis_weights"]
    elif kind == "kajn":
        basis, coef = [special.eval_jacobi(d, 1, 1, np.tanh(x)) for d in range(count)], part["jacobi_coeffs"]
    else:  # de Casteljau's scheme on ones gives ones
        basis, coef = [np.ones_like(x)] * count, part["bernstein_coeffs"]
    z = act(x) @ part[base].T + np.einsum("bid,ijd->bj", np.stack(basis, axis=2), coef)
    expected = act(norm(z, part[f"{norm_name}.weight"], part[f"{norm_name}.bias"]))
    options = ("x_min=-2", "x_max=2.5") if kind == "kaln" else ()
    manifest = same(tmp_path, tensors, expected, *options, n=3)
    assert manifest.source.family == kind


def test_torch_conv_kan_with_splines(tmp_path: Path) -> None:
    """Its grid is in no file: order and range are options."""
    tensors = full_layer("torch-conv-kan", 3, 4, 7)
    part = {key: value.astype(np.float64) for key, value in tensors.items()}
    x, k = rows(3), 2
    cell = 4 / (7 - k)
    z = ACTS["gelu"](x) @ part["base_weight"].T
    for i in range(3):
        for j in range(4):
            knots = -1 + cell * (np.arange(7 + k + 1) - k)
            z[:, j] += _faded(BSpline(knots, part["spline_weight"][j, i], k), x[:, i])
    z = norm(z, part["layer_norm.weight"], part["layer_norm.bias"])
    expected = np.where(z > 0, z, part["prelu.weight"] * z)
    manifest = same(tmp_path, tensors, expected, "spline_order=2", "grid_min=-1", "grid_max=3", n=3)
    assert manifest.source.family == "torch-conv-kan"
    assert beside_forward(manifest.source) == {"base_activation": "gelu", "layernorm_eps": "1e-5"}
    kan, _ = read(tmp_path / "model.safetensors")
    assert kan.layers[0].terms[0].basis.parameters()["degree"] == "3"
    for wrong in ("spline_order=7", "spline_order=0", "grid_min=2", "grid_max=1e308"):
        assert isinstance(refuse(tmp_path, tensors, wrong), OptionError | InvalidKan)


def test_ranges_of_a_list_of_layers_go_by_their_order(tmp_path: Path) -> None:
    layers = [full_layer("kaln", 3, 4, 3), full_layer("kaln", 4, 5, 3, seed=1)]
    tensors = {f"layers.{at}.{key}": value for at, layer in enumerate(layers) for key, value in layer.items()}
    kan, family = read(save(tmp_path, tensors), *RANGES)
    assert family == "kaln"
    actual = [layer.terms[0].support(layer.sources).core for layer in kan.layers]
    assert [(low[0], high[0]) for low, high in actual] == [(-2, 2.5), (-0.5, 1.75)]
    alone, _ = read(tmp_path / "model.safetensors", "prefix=layers.1.", "x_min=-3", "x_max=3")
    assert alone.layers[0].terms[0].support(4).core[0][0] == -3


def test_a_bottleneck_is_refused_with_the_reason(tmp_path: Path) -> None:
    tensors = full_layer("kagn", 3, 4, 3) | {"inner_proj.weight": np.ones((2, 3), np.float32)}
    error = refuse(tmp_path, tensors)
    assert isinstance(error, InvalidKan)
    assert "projects its sources" in error.message


def test_layers_with_dropouts_between_need_a_list_of_steps(tmp_path: Path) -> None:
    """Dropout has no weights, so the numbers have a gap, and the file does not show the module in it."""
    tensors = {f"layers.{at}.{key}": v for at in (0, 2) for key, v in full_layer("kajn", 3, 3, 3).items()}
    error = refuse(tmp_path, tensors)
    assert "does not record the function between them" in error.message
    steps = tmp_path / "layers.toml"
    steps.write_text('[[step]]\nlayer = "layers.0"\n[[step]]\ndropout = 0.1\n[[step]]\nlayer = "layers.2"\n')
    result = export(Request(path=tmp_path / "model.safetensors", repository=tmp_path / "models", architecture=steps))
    assert result.manifest.widths == (3, 3, 3)
    assert math.isclose(result.manifest.layers[0].post_steps[0].epsilon, 1e-5)
