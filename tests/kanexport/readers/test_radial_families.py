"""FastKAN, FasterKAN and RBF-KAN: radial functions with shared centres, compared with the formulas in loops."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.pipeline import Request, export
from tests.support.small_checkpoints import beside_forward, check, read, refuse, save, silu, stacked

RANGE = (-1.5, 2.5)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def fastkan(n: int, m: int, k: int = 5, *, norm: bool = True, base: bool = True, kind: str = "float32") -> Any:
    tensors = {"rbf.grid": np.linspace(*RANGE, k), "spline_linear.weight": normal(1, m, n * k)}
    if norm:
        tensors |= {"layernorm.weight": 1 + 0.3 * normal(2, n), "layernorm.bias": normal(3, n)}
    if base:
        tensors |= {"base_linear.weight": normal(4, m, n), "base_linear.bias": normal(5, m)}
    return {key: value.astype(kind) for key, value in tensors.items()}


def fasterkan(n: int, m: int, k: int = 5) -> Any:
    return {**fastkan(n, m, k, base=False), "rbf.inv_denominator": np.float32(0.5)}


def rbf_kan(n: int, m: int, k: int = 5, *, base: bool = True) -> Any:
    tensors = {"rbf_linear.grid": np.linspace(*RANGE, k), "rbf_linear.spline_weight": normal(1, n * k, m)}
    if base:
        tensors |= {"base_linear.weight": normal(4, m, n), "base_linear.bias": normal(5, m)}
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def normalised(part: Any, row: list[float]) -> list[float]:
    if "layernorm.weight" not in part:
        return row
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row) + 1e-5)
    scale, bias = part["layernorm.weight"], part["layernorm.bias"]
    return [(v - mean) / deviation * s + b for v, s, b in zip(row, scale, bias, strict=True)]


def branches(part: Any, row: list[float], weight: Any, function: Any, act: Any) -> Any:
    """`weight(j, i, c)` times `function(h_i - g_c)`, and the base branch."""
    centres = part.get("rbf.grid", part.get("rbf_linear.grid"))
    base = part.get("base_linear.weight")
    h, m = normalised(part, row), len(base) if base is not None else None
    m = m or (
        part["spline_linear.weight"].shape[0] if "rbf.grid" in part else part["rbf_linear.spline_weight"].shape[1]
    )
    return [
        [
            sum(weight(j, i * len(centres) + c) * function(h[i] - g) for c, g in enumerate(centres))
            + (base[j, i] * act(row[i]) if base is not None else 0)
            for j in range(m)
        ]
        for i in range(len(row))
    ]


def gaussians(d: float, act: Any = silu) -> Any:
    def edges(part: Any, row: list[float]) -> Any:
        rbf = part.get("rbf_linear.spline_weight")
        weight = rbf.T if rbf is not None else part["spline_linear.weight"]
        return branches(part, row, lambda j, f: weight[j, f], lambda u: math.exp(-((u / d) ** 2)), act)

    return edges


def secants(rate: float = 1.0) -> Any:
    def edges(part: Any, row: list[float]) -> Any:
        weight = part["spline_linear.weight"]
        return branches(part, row, lambda j, f: weight[j, f], lambda u: 1 - math.tanh(u * rate) ** 2, silu)

    return edges


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize(("n", "m"), [(3, 2), (1, 2), (3, 1), (3, 3), (1, 1)])
def test_fastkan_with_and_without_its_branches(tmp_path: Path, n: int, m: int, norm: bool, base: bool) -> None:
    tensors = fastkan(n, m, norm=norm, base=base)
    manifest = check(save(tmp_path, tensors), tensors, gaussians(1.0), bias="base_linear.bias")
    assert manifest.source.family == "fastkan"
    assert manifest.edge_class == ("B" if norm else "A")
    assumed = {"denominator": "1.0"} | ({"layernorm_eps": "1e-5", "layernorm": "spline"} if norm else {})
    assert beside_forward(manifest.source) == assumed | ({"base_activation": "silu"} if base else {})


def test_a_stack_of_fastkan_layers_of_two_grids_in_float64(tmp_path: Path) -> None:
    layers = [fastkan(3, 4, kind="float64"), fastkan(4, 2, norm=False, kind="float64")]
    layers[0]["rbf.grid"] = np.linspace(-1.2, 0.2, 5)
    tensors = stacked(layers)
    kan, _ = read(save(tmp_path, tensors))
    assert kan.dtype == "float64"
    spacings = [(0.2 - -1.2) / 4, 1.0]
    assert [layer.terms[0].basis.denominator for layer in kan.layers] == spacings
    result = export(Request(path=tmp_path / "model.safetensors", repository=tmp_path / "assumed"))
    assert result.manifest.source.options_assumed["denominator"] == f"{spacings[0]!r}, {spacings[1]!r}"
    manifest = check(
        save(tmp_path, tensors), tensors, gaussians(0.7), "denominator=0.7",
        prefixes=("layers.0.", "layers.1."), bias="base_linear.bias",
    )  # fmt: skip
    assert manifest.source.dtype == "float64"


def test_the_default_denominator_is_what_the_constructor_computed(tmp_path: Path) -> None:
    """From (-1.2, 0.2), which float32 cannot hold."""
    tensors = fastkan(3, 2)
    tensors["rbf.grid"] = np.linspace(-1.2, 0.2, 8).astype(np.float32)
    tensors["spline_linear.weight"] = normal(1, 2, 24).astype(np.float32)
    check(save(tmp_path, tensors), tensors, gaussians((0.2 - -1.2) / 7), bias="base_linear.bias")


def test_one_centre_needs_its_denominator(tmp_path: Path) -> None:
    tensors = fastkan(3, 2, 1)
    assert isinstance(refuse(tmp_path, tensors), OptionError)
    check(save(tmp_path, tensors), tensors, gaussians(0.5), "denominator=0.5", bias="base_linear.bias")


def test_other_activations_and_no_base_bias(tmp_path: Path) -> None:
    tensors = fastkan(3, 2)
    del tensors["base_linear.bias"]
    check(save(tmp_path, tensors), tensors, gaussians(1.0, math.tanh), "base_activation=tanh")


def test_fastkan_inside_a_larger_model(tmp_path: Path) -> None:
    tensors = stacked([fastkan(3, 4), fastkan(4, 2)], "ffn.layers.") | {
        "embed.weight": np.ones((3, 3), np.float32), "norm.weight": np.ones(3, np.float32),
    }  # fmt: skip
    error = refuse(tmp_path, tensors)
    assert isinstance(error, FamilyError)
    assert "embed.weight" in error.message
    check(
        save(tmp_path, tensors), tensors, gaussians(1.0), "prefix=ffn.",
        prefixes=("ffn.layers.0.", "ffn.layers.1."), bias="base_linear.bias",
    )  # fmt: skip


@pytest.mark.parametrize(("n", "m", "k"), [(3, 2, 5), (1, 2, 8), (3, 1, 1), (4, 4, 2)])
def test_fasterkan(tmp_path: Path, n: int, m: int, k: int) -> None:
    tensors = fasterkan(n, m, k)
    manifest = check(save(tmp_path, tensors), tensors, secants())
    assert manifest.source.family == "fasterkan"
    assert manifest.edge_class == "B"
    assert beside_forward(manifest.source) == {"inv_denominator": "unused", "layernorm_eps": "1e-5"}


def test_fasterkans_stored_rate_is_used_only_when_asked_for(tmp_path: Path) -> None:
    tensors = fasterkan(3, 2)
    tensors["rbf.inv_denominator"] = np.float32(np.nan)
    check(save(tmp_path, tensors), tensors, secants())
    assert "rate" in refuse(tmp_path, tensors, "inv_denominator=used").message
    tensors["rbf.inv_denominator"] = np.float32(3)
    check(save(tmp_path, tensors), tensors, secants(3.0), "inv_denominator=used")
    assert "unused, used" in refuse(tmp_path, tensors, "inv_denominator=3").hint


@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize(("n", "m", "k"), [(3, 2, 5), (1, 2, 8), (3, 1, 2), (4, 4, 5)])
def test_rbf_kan(tmp_path: Path, n: int, m: int, k: int, base: bool) -> None:
    tensors = rbf_kan(n, m, k, base=base)
    d = (RANGE[1] - RANGE[0]) / (k - 1)
    manifest = check(save(tmp_path, tensors), tensors, gaussians(d), bias="base_linear.bias")
    assert manifest.source.family == "rbf-kan"
    assert manifest.edge_class == "A"
    assert beside_forward(manifest.source) == {"denominator": repr(d)} | ({"base_activation": "silu"} if base else {})


def test_rbf_kan_options(tmp_path: Path) -> None:
    tensors = stacked([rbf_kan(2, 3), rbf_kan(3, 1)])
    options = ("denominator=0.4", "base_activation=tanh")
    where = ("layers.0.", "layers.1.")
    check(
        save(tmp_path, tensors), tensors, gaussians(0.4, math.tanh), *options, prefixes=where, bias="base_linear.bias"
    )
    assert "denominator" in refuse(tmp_path, tensors, "denominator=0").message
    assert "magic" in refuse(tmp_path, tensors, "base_activation=magic").message
    assert "'w'" in refuse(tmp_path, tensors, "w=4").message


@pytest.mark.parametrize("make", [fastkan, fasterkan, rbf_kan])
def test_a_weight_that_is_not_finite_is_named_by_edge_and_function(tmp_path: Path, make: Any) -> None:
    tensors = stacked([make(3, 4), make(4, 2)])
    key = next(key for key in tensors if key.startswith("layers.1.") and "spline" in key)
    flat = tensors[key]
    # Function 4 of source 2 to destination 1; RBF-KAN keeps destinations last.
    flat[(2 * 5 + 4, 1) if "rbf_linear" in key else (1, 2 * 5 + 4)] = np.inf
    error = refuse(tmp_path, tensors)
    assert isinstance(error, InvalidKan)
    assert "layer layers.1:" in error.message
    assert "[2, 1, 4]" in error.message


@pytest.mark.parametrize("make", [fastkan, fasterkan, rbf_kan])
def test_misshapen_tensors_are_named(tmp_path: Path, make: Any) -> None:
    whole = make(3, 2)
    for key in (key for key in whole if whole[key].ndim):
        error = refuse(tmp_path, whole | {key: whole[key][:0]})
        assert isinstance(error, InvalidKan)
        assert key in error.message
        # If two tensors do not fit each other, the error may name either.
        for change in (whole[key][..., :-1], whole[key][None]):
            error = refuse(tmp_path, whole | {key: change})
            assert isinstance(error, InvalidKan | FamilyError)
            assert any(name in error.message for name in whole)


def test_libraries_are_told_apart(tmp_path: Path) -> None:
    for make, family in ((fastkan, "fastkan"), (fasterkan, "fasterkan"), (rbf_kan, "rbf-kan")):
        assert read(save(tmp_path, make(3, 3)))[1] == family
    both = stacked([fastkan(3, 4)]) | {f"layers.1.{key}": value for key, value in rbf_kan(4, 2).items()}
    error = refuse(tmp_path, both)
    assert isinstance(error, FamilyError)
    assert re.search(r"fit several libraries: fastkan \(.*\) and rbf-kan \(", error.message)
