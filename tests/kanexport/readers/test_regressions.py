"""Published layers with a library's tensor names and another formula, once exported as verified but wrong.

Without options an export uses the library's forward variant and lists it as an assumption, with the option for the
alternative. Expected outputs select the alternative. test_polynomial_rivals.py, test_radial_families.py and
functions/test_wavelets.py have each author's formula.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from kanexport.bundle.publish import Result
from kanexport.pipeline import Request, export
from kanexport.shared import manifest
from kanexport.verify import float64_reference, graph_runner
from tests.support.small_checkpoints import Tensors, decided, floats, normal, reading, refuse, save, stacked
from tests.support.tiers import spread

DEGREE = 4
EXACT = 2e-5  # relative, of a graph in float32


def coefficients(name: str) -> Callable[[int, int], Tensors]:
    return lambda n, m: {name: normal(n, n, m, DEGREE + 1) / 2}


def centred(n: int, m: int) -> Tensors:
    return {
        "rbf.grid": np.linspace(-1.2, 0.2, 6),
        "spline_linear.weight": 0.4 * normal(n, m, n * 6),
        "layernorm.weight": 1 + 0.3 * normal(n + 10, n),
        "layernorm.bias": 0.3 * normal(n + 20, n),
    }


def bumps(n: int, m: int) -> Tensors:
    low = np.tile(np.arange(-3, 5) / 5, (n, 1))
    ends = {"phase_low": low, "phase_high": low + 0.8}
    return {**ends, "equal_size_conv.weight": normal(n, m, 1, 8, n), "equal_size_conv.bias": normal(m, m)}


def waves(n: int, m: int) -> Tensors:
    rng = np.random.default_rng(n)
    return {
        "wavelet_weights": 0.7 * normal(n, m, n),
        "weight1": normal(n + 10, m, n),
        "translation": 0.5 * normal(n + 20, m, n),
        "scale": rng.uniform(0.7, 1.5, size=(m, n)),
        **{f"bn.{key}": 0.3 * normal(n + 30, m) + 1 for key in ("weight", "bias", "running_mean")},
        "bn.running_var": rng.uniform(0.3, 1, size=m),
    }


# By description: the layer's tensors, and the fact and its value with which the file is read rightly.
RIVALS: dict[str, tuple[Callable[[int, int], Tensors], str, str]] = {
    "ChebyKANLinear of TimeKAN": (coefficients("cheby_coeffs"), "forward", "timekan"),
    "X-KANeRF's Fibonacci": (coefficients("fib_coeffs"), "forward", "x-kanerf"),
    "X-KANeRF's Chebyshev": (coefficients("cheby_coeffs"), "forward", "x-kanerf"),
    "Laguerre layers of X-KANeRF": (coefficients("laguerre_coeffs"), "laguerre_alpha", "-0.5"),
    **{f"Wav-KAN with {wave}": (waves, "wavelet_type", wave) for wave in ("morlet", "dog", "shannon")},
    "the first FasterKAN": (centred, "forward", "fasterkan"),
    "ReLU-KAN with SiLU": (bumps, "forward", "activated"),
    "ReLU-KAN times x": (bumps, "forward", "times-x"),
}


def error(result: Result, x: Any, y: Any) -> float:
    """Return the largest error of the exported graph, relative to the largest output."""
    session = graph_runner.session((result.directory / "model.onnx").read_bytes())
    apart = np.abs(graph_runner.run(session, {"x": x})["y"] - y)
    return float(apart.max() / np.abs(y).max())


def plain(path: Path, *options: str) -> Result:
    return export(Request(path=path, repository=path.parent / "models", options=options, force=True))


@spread("name", RIVALS, 2)
def test_a_rival_is_named_first_and_expected_outputs_decide_for_it(tmp_path: Path, name: str) -> None:
    make, key, value = RIVALS[name]
    path = save(tmp_path, floats(stacked([make(3, 4), make(4, 2)])))
    x = np.concatenate([normal(3, 60, 3) * size for size in (1, 3, 30)]).astype(np.float32)
    y = float64_reference.evaluate(reading(path, f"{key}={value}").kan, x.astype(np.float64)).y
    own = plain(path)
    source, claim, apart = own.manifest.source, own.manifest.claim, error(own, x, y)
    assert next(iter(source.options_assumed)) == "forward"
    assert key in source.options_assumed
    assert (f"--option forward={value}" if key == "forward" else value) in source.alternatives[key]
    assert claim == manifest.VERIFICATION_BASES[manifest.READING]
    assert "not compared with the trained model" in claim
    result = decided(path, x, y)
    assert error(result, x, y) < EXACT
    assert result.manifest.verification_basis == manifest.EXPECTED_OUTPUTS
    options = result.manifest.source.options_decided
    if name == "X-KANeRF's Chebyshev":  # 1e-6 from the poles: float32 does not see it
        assert options["forward"] or "forward" in result.manifest.source.options_assumed
    else:
        assert options[key] == value
        assert apart > 0.01  # the alternatives differ in their outputs


def blocks(*widths: int) -> tuple[Tensors, Callable[[Any], Any]]:
    """X-KANeRF's Chebyshev_KAN: a layer and a LayerNorm in each block."""
    tensors: Tensors = {}
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        tensors |= {
            f"layers.{at}.layer.cheby_coeffs": normal(at, n, m, DEGREE + 1) / 2,
            f"layers.{at}.layer.arange": np.arange(DEGREE + 1),
            f"layers.{at}.layer_norm.weight": 1 + 0.3 * normal(at + 10, m),
            f"layers.{at}.layer_norm.bias": 1 + 0.3 * normal(at + 20, m),
        }
    tensors = floats(tensors)

    def forward(x: Any) -> Any:
        for at in range(len(widths) - 1):
            u = np.clip(np.tanh(x), -1 + 1e-6, 1 - 1e-6)
            values = np.stack([special.eval_chebyt(d, u) for d in range(DEGREE + 1)], axis=2)
            x = np.einsum("bid,iod->bo", values, tensors[f"layers.{at}.layer.cheby_coeffs"].astype(np.float64))
            apart = x - x.mean(axis=1, keepdims=True)
            scale, shift = (tensors[f"layers.{at}.layer_norm.{key}"].astype(np.float64) for key in ("weight", "bias"))
            x = apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + 1e-5) * scale + shift
        return x

    return tensors, forward


@spread("widths", [(4, 4, 4), (3, 5, 5, 2)], 1)
def test_x_kanerfs_whole_network(tmp_path: Path, widths: tuple[int, ...]) -> None:
    """A norm for each layer, in the block of the layer."""
    tensors, forward = blocks(*widths)
    path, x = save(tmp_path, tensors), normal(1, 50, widths[0]).astype(np.float32)
    y, square = forward(x.astype(np.float64)), len(set(widths)) == 1
    result = plain(path, "forward=x-kanerf")
    assert error(result, x, y) < EXACT
    assert ("block" in result.manifest.source.options_assumed) == square
    document = decided(path, x, y).manifest
    assert document.verification_basis == manifest.EXPECTED_OUTPUTS
    if square:
        assert document.source.options_decided["block"] == "after"
        assert error(plain(path, "forward=x-kanerf", "block=before"), x, y) > 0.01
    twice = tensors | {key.replace("layer_norm", "layer_norm2"): v for key, v in tensors.items() if "norm" in key}
    refuse(tmp_path, twice, said="record the order")


def test_a_norm_that_fits_neither_side_of_its_layer_is_refused(tmp_path: Path) -> None:
    tensors, _ = blocks(3, 5, 2)
    for key in ("weight", "bias"):
        tensors[f"layers.1.layer_norm.{key}"] = np.ones(7, np.float32)
    refuse(tmp_path, tensors, said="fits neither side")
