"""Spline layers with another library's tensor names: each compared with its formula, and listed if ambiguous."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.detection import detect
from kanexport.formats import checkpoint
from kanexport.options import Options
from tests.support.small_checkpoints import AROUND, Edges, Tensors, check, refuse, save, silu

GRID = np.linspace(-2, 2, 5)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def floats(tensors: Tensors) -> Tensors:
    return {key: np.asarray(value, np.float32) for key, value in tensors.items()}


def asked(folder: Path, tensors: Tensors, *original: str) -> Options:
    """The options after a reading."""
    loaded, options = checkpoint.load(save(folder, tensors)), Options.parse(original)
    detect.read(detect.detect(loaded, None)[0], loaded, options)
    return options


def normalised(part: Any, row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row) + 1e-5)
    scale, bias = part["layernorm.weight"], part["layernorm.bias"]
    return [(v - mean) / deviation * s + b for v, s, b in zip(row, scale, bias, strict=True)]


def centred(n: int, m: int, *, base: bool = False, weight: str = "spline_linear.weight") -> Tensors:
    shape = (m, n * 5) if weight == "spline_linear.weight" else (m, n, 5)
    tensors = {
        "rbf.grid": GRID,
        weight: normal(1, *shape),
        "layernorm.weight": 1 + 0.3 * normal(2, n),
        "layernorm.bias": normal(3, n),
    }
    if base:
        tensors |= {"base_linear.weight": normal(4, m, n), "base_linear.bias": normal(5, m)}
    return floats(tensors)


def around(function: Any, weight: Any, *, norm: bool = True, base: str = "") -> Edges:
    """Edges of `weight(part, j, i, c)` times `function(u_i - g_c)`, u being the normalised row or the
    row itself, and of a base branch on the "raw" or "normalised" row."""

    def edges(part: Any, row: list[float]) -> Any:
        h = normalised(part, row)
        inner = h if norm else row
        m = len(part.get("spline_linear.weight", part.get("spline_weight")))
        return [
            [
                sum(weight(part, j, i, c) * function(inner[i] - g) for c, g in enumerate(part["rbf.grid"]))
                + (part["base_linear.weight"][j, i] * silu(h[i] if base == "normalised" else row[i]) if base else 0)
                for j in range(m)
            ]
            for i in range(len(row))
        ]

    return edges


def flat(part: Any, j: int, i: int, c: int) -> float:
    return float(part["spline_linear.weight"][j, i * 5 + c])


def grouped(part: Any, j: int, i: int, c: int) -> float:
    """Centre by centre, as FasterKAN's CUDA code has it."""
    return float(part["spline_linear.weight"][j, c * (part["spline_linear.weight"].shape[1] // 5) + i])


def stacked_weight(part: Any, j: int, i: int, c: int) -> float:
    return float(part["spline_weight"][j, i, c])


def gaussian(d: float) -> Any:
    return lambda u: math.exp(-((u / d) ** 2))


def secant(rate: float) -> Any:
    return lambda u: 1 - math.tanh(u * rate) ** 2


def test_the_first_fasterkan_has_fastkans_tensors(tmp_path: Path) -> None:
    tensors = centred(3, 2)
    check(save(tmp_path, tensors), tensors, around(secant(1 / 0.33), flat), "forward=fasterkan")
    check(
        save(tmp_path, tensors),
        tensors,
        around(secant(2.0), flat),
        "forward=fasterkan",
        "denominator=0.5",
    )
    options = asked(tmp_path, tensors)
    assert next(iter(options.assumed)) == "forward"
    assert options.open["forward"] == ("fasterkan",)
    assert "--option forward=fasterkan" in options.words["forward"]
    assert "0.5" in asked(tmp_path, tensors, "forward=fasterkan").open["denominator"]
    assert "forward" not in asked(tmp_path, centred(3, 2, base=True)).assumed


def test_where_fastkans_layernorm_acts(tmp_path: Path) -> None:
    tensors = centred(3, 2, base=True)
    for place, norm, base in (("spline", True, "raw"), ("both", True, "normalised"), ("unused", False, "raw")):
        edges = around(gaussian(1.0), flat, norm=norm, base=base)
        check(save(tmp_path, tensors), tensors, edges, f"layernorm={place}", bias="base_linear.bias")
    assert asked(tmp_path, tensors).open["layernorm"] == ("both", "unused")


@pytest.mark.parametrize("base", [True, False])
def test_fastkan_before_spline_linear_and_x_kanerfs_layer(tmp_path: Path, base: bool) -> None:
    tensors = centred(3, 2, base=base, weight="spline_weight")
    tensors["rbf.grid"] = (GRID / 2).astype(np.float32)
    branch = "raw" if base else ""
    where = {"bias": "base_linear.bias"}
    manifest = check(save(tmp_path, tensors), tensors, around(gaussian(0.5), stacked_weight, base=branch), **where)
    assert manifest.source.family == "first-fastkan"
    assert asked(tmp_path, tensors).assumed["forward"] == "first-fastkan"
    check(save(tmp_path, tensors), tensors, around(gaussian(1.0), stacked_weight, base=branch), "forward=grbf", **where)


def test_fasterkans_cuda_code_has_its_functions_centre_by_centre(tmp_path: Path) -> None:
    tensors = centred(3, 2) | {"rbf.inv_denominator": np.float32(0.5)}
    check(save(tmp_path, tensors), tensors, around(secant(0.5), grouped), "forward=fasterkan-cuda")
    check(save(tmp_path, tensors), tensors, around(secant(0.5), flat), "inv_denominator=used")
    assert {key: values for key, values in asked(tmp_path, tensors).open.items() if key not in AROUND} == {
        "inv_denominator": ("used",),
        "layernorm_eps": ("1e-3", "1e-6", "1e-8", "1e-12"),
    }
    assert asked(tmp_path, tensors).open["forward"] == ("fasterkan-cuda",)
    assert "inv_denominator" in refuse(tmp_path, tensors, "forward=fasterkan-cuda", "inv_denominator=used").message


def efficient(n: int, m: int, *, row: bool = False, bias: bool = False) -> Tensors:
    knots = np.arange(-3, 9) * 0.4 - 1
    tensors = {
        "base_weight": normal(1, m, n),
        "spline_weight": normal(2, m, n, 8),
        "spline_scaler": normal(3, m, n),
        "grid": knots if row else np.tile(knots, (n, 1)),
    }
    return floats(tensors | ({"bias": normal(4, m)} if bias else {}))


def spline(x: float, knots: np.ndarray, c: int, k: int = 3) -> float:
    if k == 0:
        return float(knots[c] <= x < knots[c + 1])
    left = (x - knots[c]) / (knots[c + k] - knots[c]) * spline(x, knots, c, k - 1)
    right = (knots[c + k + 1] - x) / (knots[c + k + 1] - knots[c + 1])
    return float(left + right * spline(x, knots, c + 1, k - 1))


def splines_of(inner: Any, *, scaled: bool = True) -> Edges:
    def edges(part: Any, row: list[float]) -> Any:
        grid = np.atleast_2d(part["grid"])
        return [
            [
                base * silu(x)
                + (part["spline_scaler"][j, i] if scaled else 1)
                * sum(part["spline_weight"][j, i, c] * spline(inner(x), grid[i % len(grid)], c) for c in range(8))
                for j, base in enumerate(part["base_weight"][:, i])
            ]
            for i, x in enumerate(row)
        ]

    return edges


INNER = {
    "efficient-kan": lambda x: x,
    "spline-of-tanh": math.tanh,
    "spline-of-tanh-01": lambda x: (math.tanh(x) + 1) / 2,
    "spline-clamped": lambda x: min(max(x, float(np.float32(-1))), float(np.float32(1))),
}


@pytest.mark.parametrize("forward", INNER)
def test_copies_of_efficient_kan(tmp_path: Path, forward: str) -> None:
    tensors = efficient(3, 2)
    check(save(tmp_path, tensors), tensors, splines_of(INNER[forward]), f"forward={forward}")
    assert set(asked(tmp_path, tensors).open["forward"]) == set(INNER) - {"efficient-kan"}


def test_a_scaler_that_is_not_used_one_row_of_knots_and_a_bias(tmp_path: Path) -> None:
    tensors = efficient(3, 2)
    plain = splines_of(INNER["efficient-kan"], scaled=False)
    check(save(tmp_path, tensors), tensors, plain, "spline_scaler=unused")
    tensors = efficient(3, 2, row=True, bias=True)
    manifest = check(save(tmp_path, tensors), tensors, splines_of(INNER["efficient-kan"]), bias="bias")
    assert manifest.source.family == "efficient-kan-row"


def ramps(n: int, m: int, name: str = "phase_height", *, low: float = 0.0, span: float = 1.0) -> Tensors:
    starts = low + span * np.arange(-2, 4) / 4
    return floats(
        {
            "phase_low": np.tile(starts, (n, 1)) + 0.01 * normal(1, n, 6),
            name: np.tile(starts + span * 3 / 4, (n, 1)) + 0.01 * normal(2, n, 6),
            "equal_size_conv.weight": normal(3, m, 1, 6, n),
            "equal_size_conv.bias": normal(4, m),
        }
    )


def bumps(rate: float, power: int, *, transposed: bool = False) -> Edges:
    def edges(part: Any, row: list[float]) -> Any:
        kernel = part["equal_size_conv.weight"][:, 0]
        high = part.get("phase_height", part.get("phase_high"))
        n = len(row)

        def weight(j: int, i: int, c: int) -> float:
            return float(kernel[j, c, i] if transposed else kernel[j].reshape(-1)[i * 6 + c])

        return [
            [
                sum(
                    weight(j, i, c)
                    * (max(row[i] - part["phase_low"][i, c], 0) * max(high[i, c] - row[i], 0) * rate) ** power
                    for c in range(6)
                )
                for j in range(len(kernel))
            ]
            for i in range(n)
        ]

    return edges


def test_relu_kans_copies(tmp_path: Path) -> None:
    tensors = ramps(3, 2, "phase_high")
    bias = {"bias": "equal_size_conv.bias"}
    check(save(tmp_path, tensors), tensors, bumps(64 / 9, 2), **bias)
    check(save(tmp_path, tensors), tensors, bumps(64 / 9, 2, transposed=True), "forward=transposed", **bias)
    assert asked(tmp_path, tensors).open["forward"] == ("transposed", "hrkan")
    assert asked(tmp_path, ramps(1, 2)).open["forward"] == ("hrkan",)


def test_higher_order_relu_kans(tmp_path: Path) -> None:
    tensors = ramps(3, 2, low=-1.0, span=3.0)
    supplied = ("forward=hrkan", "grid_min=-1", "grid_max=2")
    bias = {"bias": "equal_size_conv.bias"}
    check(save(tmp_path, tensors), tensors, bumps(2 / 2.25, 4), *supplied, **bias)
    check(
        save(tmp_path, tensors), tensors, bumps(4 / 2.25**2, 3), *supplied, f"rate={4 / 2.25**2!r}", "power=3", **bias
    )
    options = asked(tmp_path, tensors, *supplied)
    assert {"rate", "power"} <= set(options.open)
    assert "expected grid_min < grid_max" in refuse(tmp_path, tensors, "forward=hrkan", "grid_min=2").message


def test_the_papers_denominator_of_gr_kan(tmp_path: Path) -> None:
    tensors = floats(
        {
            "act.weight_numerator": normal(1, 1, 6),
            "act.weight_denominator": normal(2, 2, 4),
            "fc.weight": normal(3, 3, 4),
            "fc.bias": normal(4, 3),
        }
    )

    def edges(part: Any, row: list[float]) -> Any:
        above, below = part["act.weight_numerator"][0], part["act.weight_denominator"]
        values = [
            sum(a * x**k for k, a in enumerate(above))
            / (1 + abs(sum(b * x ** (k + 1) for k, b in enumerate(below[i // 2]))))
            for i, x in enumerate(row)
        ]
        return [[part["fc.weight"][j, i] * value for j in range(3)] for i, value in enumerate(values)]

    check(save(tmp_path, tensors), tensors, edges, "denominator=outer", bias="fc.bias")
    assert asked(tmp_path, tensors).open["denominator"] == ("signed", "outer")
