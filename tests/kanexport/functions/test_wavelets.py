"""Wavelets: operators compared with formulas, and layers of two libraries compared with loops."""

import cmath
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import InvalidKan, OptionError
from kanexport.functions import wavelets
from kanexport.functions.wavelets import WAVELETS
from kanexport.graph.builder import Graph, Value
from kanexport.verify import float64_reference
from tests.support.conformance import Emitted, computed, edge_values
from tests.support.small_checkpoints import exported, reading, refuse, save
from tests.support.tiers import full, spread

# In float64 Meyer's formula itself loses a digit to cancellation; the operators do not.
TOLERANCES = {"float32": 2e-6, "float64": 2e-14}
INSIDE = np.concatenate([np.linspace(-8, 8, 641), [0.0, -0.0, 0.5, -0.5, 0.75, 1.0, -1.0, 1e-3, -1e-20]])


def meyer(u: float) -> float:
    v = abs(u)
    t = 2 * v - 1
    fall = math.cos(math.pi / 2 * (t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)))
    return math.sin(math.pi * v) * (1 if v <= 0.5 else 0 if v >= 1 else fall)


FORMULAS = {
    "mexican_hat": lambda u: 2 / (math.sqrt(3) * math.pi**0.25) * (u * u - 1) * math.exp(-u * u / 2),
    "morlet": lambda u: cmath.exp(5j * u - u * u / 2).real,
    "dog": lambda u: -u * math.exp(-u * u / 2),
    "meyer": meyer,
    "shannon": lambda u: math.sin(u) / u if u else 1.0,
    "ricker": lambda u: 2 / (math.sqrt(3) * math.pi**0.25) * (1 - u * u) * math.exp(-u * u / 2),
}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_operators_and_evaluation_follow_the_formula(dtype: str) -> None:
    x = INSIDE.astype(dtype).astype(np.float64)
    far = np.array([50.0, -50.0, 1e6, -1e20, 1e30])
    for name, made in WAVELETS.items():
        expected = np.array([FORMULAS[name](u) for u in x.tolist()])
        np.testing.assert_allclose(made.evaluate(x), expected, rtol=0, atol=2e-15)
        np.testing.assert_allclose(computed(made.emit, x, dtype), expected, rtol=0, atol=TOLERANCES[dtype])
        assert max(np.abs(values).max() for values in (made.evaluate(far), computed(made.emit, far, dtype))) <= 0.02
        with np.errstate(invalid="ignore"):
            assert np.isnan(made.evaluate(np.array([np.nan, np.inf, -np.inf]))).all()


@pytest.mark.parametrize("name", wavelets.WEIGHTED)
def test_the_form_with_fewer_operators_is_the_same_function(name: str) -> None:
    rng = np.random.default_rng(0)
    centre, rate, weight = (rng.normal(size=(1, 3)) for _ in range(3))
    g = Graph("wavelet", "float32")
    g.small_values = False
    form = wavelets.weighted(g, WAVELETS[name], centre, rate)
    assert form is not None

    def emit(g: Graph, x: Value) -> Value:
        inner = wavelets.bounded(g, WAVELETS[name], x, centre, rate)
        return form(g, g.sub(inner, g.const(centre)), rate, weight)

    places = np.concatenate([INSIDE, [50.0, -1e6, 1e20, -1e30, np.nan, np.inf, -np.inf]])
    rows = np.repeat(places[:, None], 3, axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):
        expected = weight * WAVELETS[name].evaluate((rows.astype(np.float64) - centre) * rate)
    np.testing.assert_allclose(Emitted(emit, 3, (3,), "float32", exact=False)(rows), expected, rtol=0, atol=3e-6)


def test_the_form_with_fewer_operators_is_for_ordinary_numbers() -> None:
    g = Graph("wavelet", "float32")
    one = np.ones((2, 2))
    assert wavelets.weighted(g, WAVELETS["dog"], one, one) is not None
    assert wavelets.weighted(g, WAVELETS["meyer"], one, one) is None
    assert wavelets.weighted(g, WAVELETS["dog"], one, 1e20 * one) is None
    assert wavelets.weighted(g, WAVELETS["dog"], one, 0 * one) is None
    assert wavelets.weighted(Graph("wavelet", "float64"), WAVELETS["dog"], one, one) is None
    assert wavelets.weighted(g, WAVELETS["mexican_hat"], one, one) is None  # a norm may follow, and enlarge its error


def wav_layer(n: int, m: int, seed: int = 0, *, prefix: str = "") -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    tensors = {
        "scale": rng.uniform(0.3, 2, size=(m, n)) * rng.choice([-1, 1], size=(m, n)),
        "translation": rng.normal(size=(m, n)),
        "weight1": rng.normal(size=(m, n)),
        "wavelet_weights": rng.normal(size=(m, n)),
        "bn.weight": rng.normal(size=m),
        "bn.bias": rng.normal(size=m),
        "bn.running_mean": rng.normal(size=m),
        "bn.running_var": rng.uniform(0.1, 3, size=m),
        "bn.num_batches_tracked": np.array(7),
    }
    return {prefix + k: v.astype(np.int64 if v.dtype.kind == "i" else np.float32) for k, v in tensors.items()}


def torch_layer(n: int, m: int, count: int, seed: int = 0, *, prefix: str = "") -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    tensors = {
        "base_weight": rng.normal(size=(m, n)),
        "wavelet_weights": rng.normal(size=(m, n, count)),
        "mu": rng.normal(size=(m, n, count)),
        "scale": rng.uniform(0.3, 2, size=(m, n, count)),
    }
    return {prefix + k: v.astype(np.float32) for k, v in tensors.items()}


@pytest.mark.parametrize("name", WAVELETS)
@spread("n,m", [(3, 2), (1, 4), (4, 4)], 1)
def test_a_wav_kan_layer(tmp_path: Path, name: str, n: int, m: int) -> None:
    tensors = wav_layer(n, m)
    kan = reading(save(tmp_path, tensors), f"wavelet_type={name}").kan
    x = np.random.default_rng(3).normal(size=(9, n))
    t, s, w = (tensors[key].astype(float) for key in ("translation", "scale", "wavelet_weights"))
    window = [0.54 - 0.46 * math.cos(2 * math.pi * i / (n - 1)) if n > 1 else 1.0 for i in range(n)]
    expected = np.zeros((9, n, m))
    for b, i, j in np.ndindex(*expected.shape):
        factor = window[i] if name == "shannon" else 1.0
        expected[b, i, j] = w[j, i] * factor * FORMULAS[name]((x[b, i] - t[j, i]) / s[j, i])
    np.testing.assert_allclose(edge_values(kan.layers[0], x), expected, rtol=0, atol=1e-13)
    bn = {key: tensors[f"bn.{key}"].astype(float) for key in ("weight", "bias", "running_mean", "running_var")}
    y = (expected.sum(axis=1) - bn["running_mean"]) / np.sqrt(bn["running_var"] + 1e-5) * bn["weight"] + bn["bias"]
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, y, rtol=0, atol=1e-12)


def test_a_torch_wavelet_kan_layer(tmp_path: Path) -> None:
    tensors = torch_layer(3, 2, 4)
    result = reading(save(tmp_path, tensors), "epsilon=0.25")
    kan = result.kan
    exact = {key: value.astype(np.float64) for key, value in tensors.items()}
    x = np.random.default_rng(3).normal(size=(9, 3))
    expected = np.zeros((9, 3, 2))
    for b, i, j in np.ndindex(*expected.shape):
        expected[b, i, j] = exact["base_weight"][j, i] * x[b, i] / (1 + math.exp(-x[b, i]))
        for k in range(4):
            u = (x[b, i] - exact["mu"][j, i, k]) / (exact["scale"][j, i, k] + 0.25)
            expected[b, i, j] += exact["wavelet_weights"][j, i, k] * FORMULAS["morlet"](u)
    np.testing.assert_allclose(edge_values(kan.layers[0], x), expected, rtol=0, atol=1e-12)
    assert "epsilon" not in result.assumed
    assert reading(save(tmp_path, tensors)).assumed["epsilon"] == "1e-5"


MODELS = {
    "wav-kan": lambda: wav_layer(3, 4, prefix="layers.0.") | wav_layer(4, 2, 1, prefix="layers.1."),
    "torch-wavelet-kan": lambda: torch_layer(3, 4, 2, prefix="0.") | torch_layer(4, 2, 5, 1, prefix="1."),
}


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=full("combination"))])
@pytest.mark.parametrize("family", MODELS)
def test_models_export_and_the_proof_holds(tmp_path: Path, family: str, dtype: str) -> None:
    """A fact that is not in the file is assumed and recorded."""
    manifest = exported(save(tmp_path, MODELS[family]()), dtype=dtype)
    assert (manifest.source.family, manifest.widths, manifest.edge_class) == (family, (3, 4, 2), "A")
    assert manifest.layers[0].bases[0].per_edge
    if family == "wav-kan":
        assumed = manifest.source.options_assumed
        facts = [assumed[key] for key in ("wavelet_type", "batchnorm_eps", "base_branch", "wavelet_factor")]
        assert facts == ["mexican_hat", "1e-5", "dead", "none"]


def test_the_base_branch_of_torch_conv_kan(tmp_path: Path) -> None:
    """The same keys, with a branch that Wav-KAN computes and drops."""
    tensors = wav_layer(3, 4)
    kans = [reading(save(tmp_path, tensors), f"base_branch={way}").kan for way in ("dead", "added")]
    x = np.random.default_rng(0).normal(size=(5, kans[0].n_inputs))
    dead, added = (edge_values(kan.layers[0], x) for kan in kans)
    silu = x / (1 + np.exp(-x))
    np.testing.assert_allclose(added - dead, silu[:, :, None] * tensors["weight1"].T.astype(np.float64), atol=1e-12)


def test_a_layer_without_its_normalisation_is_read_and_one_of_batches_refused(tmp_path: Path) -> None:
    tensors = wav_layer(3, 2)
    bare = {key: value for key, value in tensors.items() if not key.startswith("bn.")}
    assert reading(save(tmp_path, bare)).kan.layers[0].post_steps == ()
    batches = {key: value for key, value in tensors.items() if "running" not in key}
    assert "depend on the other rows of the batch" in refuse(tmp_path, batches).message


def test_bad_values_are_refused_by_name(tmp_path: Path) -> None:
    tensors = MODELS["wav-kan"]()
    tensors["layers.1.scale"][1, 3] = 0
    assert "layer layers.1: the scale of wavelet 0 on edge 3 -> 1 is 0" in refuse(tmp_path, tensors).message
    tensors["layers.1.scale"][1, 3] = np.nan
    assert "layer layers.1: mexican_hat rate at [3, 1, 0]" in refuse(tmp_path, tensors).message
    tensors = MODELS["wav-kan"]()
    tensors["layers.0.bn.running_var"][2] = -1
    assert "layers.0.bn.running_var" in refuse(tmp_path, tensors).message
    tensors = MODELS["torch-wavelet-kan"]()
    tensors["1.scale"][0, 2, 4] = -1e-5
    exact = repr(float(np.float32(1e-5)))  # as the file stores it
    assert "wavelet 4 on edge 2 -> 0 is 0" in refuse(tmp_path, tensors, f"epsilon={exact}").message


def test_unknown_wavelets_and_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    error = refuse(tmp_path, MODELS["wav-kan"](), "wavelet_type=haar")
    assert isinstance(error, OptionError)
    assert "meyer" in error.hint
    for key in ("scale", "translation", "wavelet_weights", "bn.running_var", "bn.bias"):
        tensors = wav_layer(3, 2)
        tensors[key] = np.concatenate([tensors[key], tensors[key]])
        error = refuse(tmp_path, tensors)
        assert isinstance(error, InvalidKan)
        assert "has shape" in error.message
