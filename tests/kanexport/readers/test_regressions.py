"""Published layers with a library's tensor names and another formula, once exported as verified but wrong.

This file has each author's formula. Without options an export uses the library's forward variant and lists it as
an assumption, with the option for the alternative. That option, or expected outputs, selects the alternative.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from kanexport.bundle.publish import Result
from kanexport.contract import manifest
from kanexport.errors import FamilyError, OpenQuestion
from kanexport.pipeline import Request, export
from kanexport.verify import graph_runner
from tests.support.small_checkpoints import refuse, save, stacked

WIDTHS = (3, 4, 2)
DEGREE = 4
EXACT = 2e-5  # relative, of a graph in float32
Tensors = dict[str, Any]
Forward = Callable[[Tensors, Any], Any]


@dataclasses.dataclass(frozen=True)
class Rival:
    """A layer's tensors and forward. `named`: the fact and its value, with which the file is read rightly; `said`:
    what the result must say about it without them."""

    make: Callable[[Any, int, int], Tensors]
    forward: Forward
    named: tuple[tuple[str, str], ...]
    said: str

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(f"{key}={value}" for key, value in self.named)


def polynomials(name: str, values: Callable[[Any], list[Any]], *named: tuple[str, str], said: str) -> Rival:
    def forward(t: Tensors, x: Any) -> Any:
        return np.einsum("bid,iod->bo", np.stack(values(x), axis=2), t[name])

    return Rival(lambda rng, n, m: {name: rng.normal(0, 0.5, size=(n, m, DEGREE + 1))}, forward, named, said)


def chebyshev(u: Any) -> list[Any]:
    return [special.eval_chebyt(d, u) for d in range(DEGREE + 1)]


def fibonacci(x: Any) -> list[Any]:
    """X-KANeRF's: the polynomials, and tanh of each."""
    u = np.tanh(x)
    values = [0 * u, 1 + 0 * u]
    while len(values) <= DEGREE:
        values.append(u * values[-1] + values[-2])
    return [np.tanh(value) for value in values]


def laguerre(x: Any) -> list[Any]:
    return [special.eval_genlaguerre(d, -0.5, np.tanh(x)) for d in range(DEGREE + 1)]


def centred(rng: Any, n: int, m: int) -> Tensors:
    return {
        "rbf.grid": np.linspace(-1.2, 0.2, 6),
        "spline_linear.weight": rng.normal(0, 0.4, size=(m, n * 6)),
        "layernorm.weight": rng.normal(1, 0.3, size=n),
        "layernorm.bias": rng.normal(0, 0.3, size=n),
    }


def first_fasterkan(t: Tensors, x: Any) -> Any:
    """Vision-KAN's and visionkan's: 1 - tanh(u / 0.33)^2, no inv_denominator and no base branch."""
    apart = x - x.mean(axis=1, keepdims=True)
    u = apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + 1e-5) * t["layernorm.weight"] + t["layernorm.bias"]
    bells = 1 - np.tanh((u[:, :, None] - t["rbf.grid"]) / 0.33) ** 2
    return bells.reshape(len(x), -1) @ t["spline_linear.weight"].T


def waves(rng: Any, n: int, m: int) -> Tensors:
    return {
        "wavelet_weights": rng.normal(0, 0.7, size=(m, n)),
        "weight1": rng.normal(size=(m, n)),
        "translation": rng.normal(0, 0.5, size=(m, n)),
        "scale": rng.uniform(0.7, 1.5, size=(m, n)),
        "bn.weight": rng.normal(1, 0.3, size=m),
        "bn.bias": rng.normal(0, 0.3, size=m),
        "bn.running_mean": rng.normal(0, 0.3, size=m),
        "bn.running_var": rng.uniform(0.3, 1, size=m),
    }


WAVES: dict[str, Callable[[Any], Any]] = {
    "morlet": lambda u: np.cos(5 * u) * np.exp(-(u**2) / 2),
    "dog": lambda u: -u * np.exp(-(u**2) / 2),
    "shannon": lambda u: np.sinc(u / np.pi),
}


def wav_kan(wave: str) -> Rival:
    def forward(t: Tensors, x: Any) -> Any:
        values = WAVES[wave]((x[:, None, :] - t["translation"]) / t["scale"])
        if wave == "shannon":  # times a Hamming window over the sources
            n = x.shape[1]
            values = values * (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(n) / (n - 1)))
        z = (values * t["wavelet_weights"]).sum(axis=2)
        return (z - t["bn.running_mean"]) / np.sqrt(t["bn.running_var"] + 1e-5) * t["bn.weight"] + t["bn.bias"]

    return Rival(waves, forward, (("wavelet_type", wave),), wave)


RIVALS: dict[str, Rival] = {
    "ChebyKANLinear of TimeKAN": polynomials(
        "cheby_coeffs",
        lambda x: chebyshev(np.tanh(np.tanh(x))),
        ("forward", "timekan"),
        said="--option forward=timekan",
    ),
    "the first FasterKAN": Rival(
        centred, first_fasterkan, (("forward", "fasterkan"),), said="--option forward=fasterkan"
    ),
    "X-KANeRF's Fibonacci": polynomials(
        "fib_coeffs", fibonacci, ("forward", "x-kanerf"), said="--option forward=x-kanerf"
    ),
    "Laguerre layers of X-KANeRF": polynomials("laguerre_coeffs", laguerre, ("laguerre_alpha", "-0.5"), said="-0.5"),
    "X-KANeRF's Chebyshev": polynomials(
        "cheby_coeffs",
        lambda x: chebyshev(np.clip(np.tanh(x), -1 + 1e-6, 1 - 1e-6)),
        ("forward", "x-kanerf"),
        said="--option forward=x-kanerf",
    ),
    **{f"Wav-KAN with {wave}": wav_kan(wave) for wave in WAVES},
}


@dataclasses.dataclass(frozen=True)
class File:
    """An alternative forward of two layers: its file, rows, and its outputs for them."""

    rival: Rival
    path: Path
    x: Any
    y: Any


@pytest.fixture(params=RIVALS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> File:
    rival, rng = RIVALS[request.param], np.random.default_rng(3)
    created = [rival.make(rng, n, m) for n, m in itertools.pairwise(WIDTHS)]
    layers = [{key: np.asarray(value, np.float32) for key, value in layer.items()} for layer in created]
    x = np.concatenate([rng.normal(size=(60, 3)) * size for size in (1, 3, 30)]).astype(np.float32)
    y = x.astype(np.float64)
    for layer in layers:
        y = rival.forward({key: value.astype(np.float64) for key, value in layer.items()}, y)
    return File(rival, save(tmp_path, stacked(layers)), x, y)


def run(file: File, *options: str, recorded: bool = False) -> Result:
    folder = file.path.parent
    np.savez(folder / "outputs.npz", x=file.x, y=file.y)
    paths = (folder / "outputs.npz",) if recorded else ()
    return export(Request(path=file.path, repository=folder / "m", options=options, expected_outputs=paths, force=True))


def error(file: File, result: Result) -> float:
    """Return the largest error of the exported graph, relative to the largest output."""
    session = graph_runner.session((result.directory / "model.onnx").read_bytes())
    apart = np.abs(graph_runner.run(session, {"x": file.x})["y"] - file.y)
    return float(apart.max() / np.abs(file.y).max())


def test_without_a_word_the_rival_is_named_first(file: File) -> None:
    document = run(file).manifest
    source, key = document.source, file.rival.named[0][0]
    assert next(iter(source.options_assumed)) == "forward"
    assert key in source.options_assumed
    assert file.rival.said in source.alternatives[key]
    assert document.claim == manifest.VERIFICATION_BASES[manifest.READING]
    assert "not compared with the trained model" in document.claim


def test_with_its_option_it_is_the_rival(file: File) -> None:
    result = run(file, *file.rival.options)
    assert error(file, result) < EXACT
    assert "not compared with the trained model" in result.manifest.claim


def test_expected_outputs_decide_for_the_rival(file: File) -> None:
    result = run(file, recorded=True)
    assert error(file, result) < EXACT
    assert result.manifest.verification_basis == manifest.EXPECTED_OUTPUTS
    decided = result.manifest.source.options_decided
    if file.rival is RIVALS["X-KANeRF's Chebyshev"]:  # 1e-6 from the poles: float32 does not see it
        assert decided["forward"] or "forward" in result.manifest.source.options_assumed
    else:
        assert dict(file.rival.named).items() <= decided.items()


def test_the_librarys_own_forward_is_wrong_and_expected_outputs_say_so(file: File) -> None:
    """The alternatives differ in their outputs."""
    if file.rival is not RIVALS["X-KANeRF's Chebyshev"]:
        assert error(file, run(file)) > 0.01


CHEBY = [{"cheby_coeffs": np.random.default_rng(1).normal(size=(3, 3, 4)).astype(np.float32)} for _ in range(3)]
PAIR = {"weight": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}


@pytest.mark.parametrize("name", ["bn0", "norm0", "gn0", "scale0"])
def test_a_weight_and_a_bias_of_no_kind_need_a_word(tmp_path: Path, name: str) -> None:
    """BatchNorm without statistics, GroupNorm, a scale and a shift: none is taken for a LayerNorm."""
    tensors = stacked(CHEBY) | {f"{name}.{key}": value for key, value in PAIR.items()}
    actual = refuse(tmp_path, tensors)
    assert isinstance(actual, OpenQuestion)
    assert actual.key == "norm"
    assert "--option norm=" in actual.hint
    assert "--architecture" in actual.hint
    batch = refuse(tmp_path, tensors, "norm=batchnorm")
    assert isinstance(batch, FamilyError)
    assert "depend on the other rows of the batch" in batch.message


def test_one_number_needs_a_word(tmp_path: Path) -> None:
    """PReLU or a learned Swish."""
    actual = refuse(tmp_path, stacked(CHEBY) | {"act0.weight": np.full(1, 0.3, np.float32)})
    assert isinstance(actual, OpenQuestion)
    assert actual.key == "scalar"
    assert {"prelu", "swish"} <= set(actual.among)


def test_the_flow_of_numbered_layers_is_assumed_in_words(tmp_path: Path) -> None:
    """Layers that are residual, parallel, reversed, repeated, or have tanh between, look the same."""
    path = save(tmp_path, stacked(CHEBY))
    source = export(Request(path=path, repository=tmp_path / "m")).manifest.source
    expected = "layers.0, layers.1, layers.2 one after the other, nothing between"
    assert source.options_assumed["architecture"] == expected
    assert all(name in source.alternatives["flow"] for name in ("residual", "parallel", "reversed", "repeat:2"))
    assert "tanh" in source.alternatives["between"]


def blocks(*widths: int) -> tuple[Tensors, Callable[[Any], Any]]:
    """X-KANeRF's Chebyshev_KAN: a layer and a LayerNorm in each block."""
    rng = np.random.default_rng(6)
    tensors: Tensors = {}
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        tensors[f"layers.{at}.layer.cheby_coeffs"] = rng.normal(0, 0.5, size=(n, m, DEGREE + 1)).astype(np.float32)
        tensors[f"layers.{at}.layer.arange"] = np.arange(DEGREE + 1)
        for key in ("weight", "bias"):
            tensors[f"layers.{at}.layer_norm.{key}"] = rng.normal(1, 0.3, size=m).astype(np.float32)

    def forward(x: Any) -> Any:
        for at in range(len(widths) - 1):
            u = np.clip(np.tanh(x), -1 + 1e-6, 1 - 1e-6)
            coef = tensors[f"layers.{at}.layer.cheby_coeffs"].astype(np.float64)
            x = np.einsum("bid,iod->bo", np.stack(chebyshev(u), axis=2), coef)
            apart = x - x.mean(axis=1, keepdims=True)
            x = apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + 1e-5)
            scale, shift = (tensors[f"layers.{at}.layer_norm.{key}"].astype(np.float64) for key in ("weight", "bias"))
            x = x * scale + shift
        return x

    return tensors, forward


@pytest.mark.parametrize("widths", [(3, 5, 5, 2), (4, 4, 4)])
def test_x_kanerfs_whole_network(tmp_path: Path, widths: tuple[int, ...]) -> None:
    """A norm for each layer, in the block of the layer."""
    tensors, forward = blocks(*widths)
    x = np.random.default_rng(1).normal(size=(50, widths[0])).astype(np.float32)
    path = save(tmp_path, tensors)
    file = File(RIVALS["X-KANeRF's Chebyshev"], path, x, forward(x.astype(np.float64)))
    plain = run(file, "forward=x-kanerf")
    assert error(file, plain) < EXACT
    assert ("block" in plain.manifest.source.options_assumed) == (len(set(widths)) == 1)
    decided = run(file, recorded=True).manifest
    assert decided.verification_basis == manifest.EXPECTED_OUTPUTS
    if len(set(widths)) == 1:
        assert decided.source.options_decided["block"] == "after"
        swapped = run(file, "forward=x-kanerf", "block=before")
        assert error(file, swapped) > 0.01
    twice = tensors | {key.replace("layer_norm", "layer_norm2"): v for key, v in tensors.items() if "norm" in key}
    assert "record the order" in refuse(tmp_path, twice).message


def test_a_norm_that_fits_neither_side_of_its_layer_is_refused(tmp_path: Path) -> None:
    tensors, _ = blocks(3, 5, 2)
    for key in ("weight", "bias"):
        tensors[f"layers.1.layer_norm.{key}"] = np.ones(7, np.float32)
    assert "fits neither side" in refuse(tmp_path, tensors).message
