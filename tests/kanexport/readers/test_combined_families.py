"""BSRBF-KAN, FC-KAN, KAF, KANLib, TruKAN, DropKAN and single pykan layers, compared with their formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import Tensors, beside_forward, check, read, refuse, save, silu, stacked


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def floats(tensors: Tensors) -> Tensors:
    return {key: np.asarray(value, np.float32) for key, value in tensors.items()}


def norm(part: Any, row: Any, name: str = "layernorm") -> list[float]:
    apart = np.asarray(row) - np.mean(row)
    scaled = apart / math.sqrt(float((apart**2).mean()) + 1e-5)
    return list(scaled * part[f"{name}.weight"] + part[f"{name}.bias"])


def spline(x: float, knots: Any, c: int, k: int) -> float:
    if k == 0:
        return float(knots[c] <= x < knots[c + 1])
    left = (x - knots[c]) / (knots[c + k] - knots[c]) * spline(x, knots, c, k - 1)
    right = (knots[c + k + 1] - x) / (knots[c + k + 1] - knots[c + 1])
    return float(left + right * spline(x, knots, c + 1, k - 1))


KNOTS = np.arange(-2, 7) * 0.75 - 1.5  # G = 4, k = 2: six functions
CENTRES = np.linspace(-1.5, 1.5, 6)
WIDTH = 3 / 5


def bsrbf(n: int, m: int) -> Tensors:
    return floats(
        {
            "base_weight": normal(1, m, n),
            "spline_weight": normal(2, m, n * 6),
            "rbf.grid": CENTRES,
            "grid": np.tile(KNOTS, (n, 1)),
            "layernorm.weight": 1 + 0.2 * normal(3, n),
            "layernorm.bias": normal(4, n),
        }
    )


def bump(part: Any, h: float, c: int, kind: str) -> float:
    if kind == "bs":
        return spline(h, part["grid"][0], c, 2)
    return math.exp(-(((h - part["rbf.grid"][c]) / WIDTH) ** 2))


def bsrbf_edges(part: Any, row: list[float]) -> Any:
    return [
        [
            base * silu(h)
            + sum(
                part["spline_weight"][j, i * 6 + c] * (bump(part, h, c, "bs") + bump(part, h, c, "rbf"))
                for c in range(6)
            )
            for j, base in enumerate(part["base_weight"][:, i])
        ]
        for i, h in enumerate(norm(part, row))
    ]


def test_bsrbf_kan(tmp_path: Path) -> None:
    tensors = bsrbf(3, 2)
    manifest = check(save(tmp_path, tensors), tensors, bsrbf_edges)
    assert manifest.source.family == "bsrbf-kan"
    assert set(beside_forward(manifest.source)) == {"base_activation", "denominator", "layernorm_eps"}
    assert isinstance(refuse(tmp_path, tensors | {"grid": tensors["grid"][:, :7]}), InvalidKan)


def fc_kan(functions: int) -> Tensors:
    layers = [
        bsrbf(n, m) | floats({"scale": 0.5 + normal(5, m, n) ** 2, "translation": normal(6, m, n)})
        for n, m in ((3, 4), (4, 2))
    ]
    return stacked(layers) | floats({"concat_weight": normal(7, 2, 2 * functions)})


def stream(part: Any, row: list[float], name: str) -> list[float]:
    """One function of FC-KAN in one layer."""
    h = norm(part, row)
    n, m = len(h), len(part["base_weight"])

    def edge(j: int, i: int) -> float:
        if name in ("bs", "rbf"):
            return sum(part["spline_weight"][j, i * 6 + c] * bump(part, h[i], c, name) for c in range(6))
        if name == "dog":
            u = (h[i] - part["translation"][j, i]) / part["scale"][j, i]
            return float(part["base_weight"][j, i] * -u * math.exp(-u * u / 2))
        return float(part["base_weight"][j, i] * {"base": silu, "arctan": math.atan}[name](h[i]))

    return [sum(edge(j, i) for i in range(n)) for j in range(m)]


def combine(kind: str, rows: np.ndarray, concat: np.ndarray) -> Any:
    total, product, squares = rows.sum(axis=0), rows.prod(axis=0), (rows**2).sum(axis=0)
    return {
        "quadratic": total + product + squares, "sum": total, "product": product, "sum_product": total + product,
        "quadratic2": product + squares, "quadratic3": squares, "cubic": (total + product + squares) * total,
        "mean": total / len(rows), "concat": rows.reshape(-1), "concat_linear": concat @ rows.reshape(-1),
    }[kind]  # fmt: skip


CASES = [(("bs", "dog"), kind) for kind in ("quadratic", "sum", "product", "sum_product", "quadratic2")]
CASES += [(("rbf", "arctan", "base"), kind) for kind in ("quadratic3", "cubic", "mean", "concat", "concat_linear")]


@pytest.mark.parametrize(("functions", "kind"), [*CASES, (("dog",), "")])
def test_fc_kan(tmp_path: Path, functions: tuple[str, ...], kind: str) -> None:
    tensors = fc_kan(len(functions))
    supplied = (f"func_list={','.join(functions)}", *((f"combined_type={kind}",) if kind else ()))
    kan, family = read(save(tmp_path, tensors), *supplied)
    assert family == "fc-kan"
    x = np.random.default_rng(3).uniform(-2, 2, size=(5, 3))
    parts = [{k.removeprefix(f"layers.{at}."): v.astype(float) for k, v in tensors.items()} for at in (0, 1)]
    for row, actual in zip(x.tolist(), float64_reference.evaluate(kan, x).y, strict=True):
        rows = np.array([stream(parts[1], stream(parts[0], row, name), name) for name in functions])
        expected = combine(kind, rows, tensors["concat_weight"].astype(float)) if kind else rows[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)
    manifest = export(
        Request(path=tmp_path / "model.safetensors", repository=tmp_path / "m", options=supplied)
    ).manifest
    assert manifest.edge_class == "B"


def test_what_fc_kans_file_does_not_tell(tmp_path: Path) -> None:
    manifest = export(Request(path=save(tmp_path, fc_kan(2)), repository=tmp_path / "m")).manifest
    assert manifest.source.options_assumed["func_list"] == "bs,dog"
    assert manifest.source.options_assumed["combined_type"] == "quadratic"
    assert "bs,rbf" in manifest.source.alternatives["func_list"]
    error = refuse(tmp_path, fc_kan(2), "func_list=bs,swish")
    assert isinstance(error, FamilyError)
    assert "--module" in error.hint
    assert isinstance(refuse(tmp_path, fc_kan(2), "func_list=bs"), OptionError)


def kanlib(kind: str, *, whole: bool) -> Tensors:
    grid = np.stack([KNOTS, KNOTS + 1]) if kind == "bs" else np.stack([CENTRES, 2 * CENTRES])
    tensors = {"coefficients": normal(1, 3, 2, 6), "basis.grid": grid}
    if whole:
        tensors |= {
            "weight_spline": normal(2, 3, 2), "weight_residual": normal(3, 3, 2), "bias_output": normal(4, 3),
            "spline_input_norm.weight": 1 + 0.2 * normal(5, 2), "spline_input_norm.bias": normal(6, 2),
        }  # fmt: skip
        if kind == "rbf":
            tensors["basis.epsilon"] = np.array([[1.5], [0.75]])
    return floats(tensors)


@pytest.mark.parametrize("kind", ["bs", "rbf"])
@pytest.mark.parametrize("whole", [True, False])
def test_kanlib(tmp_path: Path, kind: str, whole: bool) -> None:
    def edges(part: Any, row: list[float]) -> Any:
        inner = norm(part, row, "spline_input_norm") if whole else row
        grid = part["basis.grid"]

        def function(i: int, c: int) -> float:
            if kind == "bs":
                return spline(inner[i], grid[i], c, 2)
            rate = part["basis.epsilon"][i, 0] if whole else 5 / (grid[i].max() - grid[i].min())
            return math.exp(-((rate * (inner[i] - grid[i, c])) ** 2))

        def edge(j: int, i: int) -> float:
            total = sum(part["coefficients"][j, i, c] * function(i, c) for c in range(6))
            return (
                total * part["weight_spline"][j, i] + part["weight_residual"][j, i] * silu(row[i]) if whole else total
            )

        return [[edge(j, i) for j in range(3)] for i in range(2)]

    tensors = kanlib(kind, whole=whole)
    manifest = check(save(tmp_path, tensors), tensors, edges, bias="bias_output")
    assert manifest.source.family == "kanlib"


def test_kanlibs_grid_must_fit_its_coefficients(tmp_path: Path) -> None:
    tensors = kanlib("bs", whole=False)
    assert "centers, or" in refuse(tmp_path, tensors | {"basis.grid": tensors["basis.grid"][:, :5]}).message
    flat = np.zeros_like(kanlib("rbf", whole=False)["basis.grid"])
    assert "denominator" in refuse(tmp_path, kanlib("rbf", whole=False) | {"basis.grid": flat}).message


def trukan(n: int, m: int, knots: np.ndarray, degree: int, name: str = "fixed_knots") -> Tensors:
    count = degree + 1 + knots.shape[-1]
    tensors = {"coeffs": normal(1, n, m, count), "bias_out": normal(2, m), name: knots}
    return floats(tensors | ({"exponents": np.arange(degree + 1)} if degree != 3 else {}))


def truncated(degree: int, knots: Any) -> Any:
    def edges(part: Any, row: list[float]) -> Any:
        t = knots(part)

        def edge(i: int, j: int, x: float) -> float:
            coefficients = part["coeffs"][i, j]
            low = sum(coefficients[p] * x**p for p in range(degree + 1))
            return low + sum(c * max(x - t[i, k], 0) ** degree for k, c in enumerate(coefficients[degree + 1 :]))

        return [[edge(i, j, x) for j in range(part["coeffs"].shape[1])] for i, x in enumerate(row)]

    return edges


@pytest.mark.parametrize(("degree", "count"), [(3, 9), (1, 1), (2, 2), (5, 4)])
def test_trukan(tmp_path: Path, degree: int, count: int) -> None:
    knots = np.tile(np.linspace(-1.5, 1.5, count + 2)[1:-1], (3, 1))
    tensors = trukan(3, 2, knots, degree)
    manifest = check(save(tmp_path, tensors), tensors, truncated(degree, lambda p: p["fixed_knots"]), bias="bias_out")
    assert manifest.source.family == "trukan"
    assert beside_forward(manifest.source) == {}


def test_trukans_learnt_knots_and_knots_an_edge(tmp_path: Path) -> None:
    def learnt(part: Any) -> Any:
        grown = np.cumsum(np.log1p(np.exp(part["raw_knots"])) + 1e-8, axis=1)
        return -2 + 3.5 * grown / grown[:, -1:]

    tensors = trukan(3, 2, normal(5, 3, 4), 3, "raw_knots")
    supplied = ("knots_min=-2", "knots_max=1.5")
    check(save(tmp_path, tensors), tensors, truncated(3, learnt), *supplied, bias="bias_out")
    assumed = check(
        save(tmp_path, tensors), tensors, truncated(3, lambda p: (learnt(p) + 2) / 1.75 - 1), bias="bias_out"
    )
    assert beside_forward(assumed.source) == {"knots_min": "-1.0", "knots_max": "1.0"}
    every = np.tile(np.linspace(-1, 1, 4), (3, 2, 1))
    tensors = trukan(3, 2, every, 3)
    check(save(tmp_path, tensors), tensors, truncated(3, lambda p: p["fixed_knots"][:, 0]), bias="bias_out")
    every[0, 1] += 0.1
    assert "--module" in refuse(tmp_path, trukan(3, 2, every, 3)).hint


def test_a_trukan_of_many_knots_keeps_its_digits_in_float32(tmp_path: Path) -> None:
    """A spline of 200 grid intervals with truncated powers that cancel: the verification of the export is the test."""
    knots = np.linspace(-1, 1, 202)[1:-1]
    tensors = trukan(2, 2, np.tile(knots, (2, 1)), 3)
    wanted = np.cos(3 * np.pi * knots)  # jumps of the third derivative that alternate and cancel
    tensors["coeffs"][:, :, 4:] = (1e3 * wanted).astype(np.float32)
    result = export(Request(path=save(tmp_path, tensors), repository=tmp_path / "m"))
    actual = result.manifest.verification.zones
    assert max(zone.outputs_max_rel for zone in actual) < 1e-5


def kaf(n: int, m: int) -> Tensors:
    return floats(
        {
            "base_scale": np.float64(1.2),
            "spline_scale": np.float64(-0.7),
            "final_linear.weight": normal(1, m, n),
            "final_linear.bias": normal(2, m),
            "feature_transform.weight": normal(3, n, 5),
            "feature_transform.bias": normal(4, 5),
            "feature_transform.combination.weight": normal(5, n, 10),
            "feature_transform.combination.bias": normal(6, n),
            "layernorm.weight": 1 + 0.2 * normal(7, n),
            "layernorm.bias": normal(8, n),
        }
    )


@pytest.mark.parametrize("used", [True, False])
def test_kaf(tmp_path: Path, used: bool) -> None:
    def edges(part: Any, row: list[float]) -> Any:
        h = np.array(norm(part, row) if used else row)
        inner = h @ part["feature_transform.weight"] + part["feature_transform.bias"]
        waves = np.concatenate([np.cos(inner), np.sin(inner)])
        s = part["feature_transform.combination.weight"] @ waves + part["feature_transform.combination.bias"]
        gelu = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in row]
        node = [part["base_scale"] * g + part["spline_scale"] * v for g, v in zip(gelu, s, strict=True)]
        return [[part["final_linear.weight"][j, i] * v for j in range(2)] for i, v in enumerate(node)]

    tensors = kaf(3, 2)
    supplied = () if used else ("layernorm=unused",)
    manifest = check(save(tmp_path, tensors), tensors, edges, *supplied, bias="final_linear.bias")
    assert manifest.edge_class == "B"
    assert manifest.source.options_assumed["base_activation"] == "gelu"


def pykan_layer(n: int, m: int) -> Tensors:
    return floats(
        {
            "coef": normal(1, n, m, 6),
            "grid": np.stack([KNOTS + 0.1 * i for i in range(n)]),
            "scale_base": normal(2, n, m),
            "scale_sp": normal(3, n, m),
            "mask": np.arange(n * m).reshape(n, m) % 3 != 0,
        }
    )


def pykan_edges(part: Any, row: list[float]) -> Any:
    def edge(i: int, j: int, x: float) -> float:
        splines = sum(part["coef"][i, j, c] * spline(x, part["grid"][i], c, 2) for c in range(6))
        own = part["scale_base"][i, j] * silu(x) + part["scale_sp"][i, j] * splines
        return float(own * (part["mask"][i, j] if "mask" in part else 1))

    return [[edge(i, j, x) for j in range(part["coef"].shape[1])] for i, x in enumerate(row)]


def test_single_layers_of_pykan(tmp_path: Path) -> None:
    tensors = stacked([pykan_layer(3, 4), pykan_layer(4, 2)], "kan.")
    manifest = check(save(tmp_path, tensors), tensors, pykan_edges, prefixes=("kan.0.", "kan.1."))
    assert manifest.source.family == "pykan-layer"


def flat_layer(n: int, m: int) -> Tensors:
    """The same in pykan 0.0: edge j n + i, grids that are not extended."""
    whole = pykan_layer(n, m)
    by_edge = {
        key: np.swapaxes(whole[key], 0, 1).reshape(n * m, *whole[key].shape[2:])
        for key in ("coef", "scale_base", "scale_sp", "mask")
    }
    return by_edge | {"grid": np.tile(whole["grid"][:, 2:-2], (m, 1))}


def test_single_layers_of_pykan_0_0_need_their_sources(tmp_path: Path) -> None:
    shapes = ((3, 4), (4, 2))
    new = stacked([pykan_layer(n, m) for n, m in shapes])
    old = stacked([flat_layer(n, m) for n, m in shapes])
    kan, family = read(save(tmp_path, old), "in_dim=3,4")
    assert family == "pykan-0.0-layer"
    x = np.random.default_rng(0).uniform(-2, 2, size=(20, 3))
    expected = float64_reference.evaluate(read(save(tmp_path, new))[0], x).y
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, expected, rtol=1e-6, atol=1e-6)
    error = refuse(tmp_path, old)
    assert isinstance(error, OptionError)
    assert "in_dim" in error.hint
    assert "divide" in refuse(tmp_path, old, "in_dim=5").message


def dropkan() -> Tensors:
    layers = {"neuron_train": np.ones(1)}
    tensors: Tensors = {}
    for at, (n, m) in enumerate(((3, 4), (4, 2))):
        own = pykan_layer(n, m) | layers
        del own["mask"]
        tensors |= {f"act_fun.{at}.{key}": value for key, value in own.items()}
        tensors |= {
            f"biases.{at}.weight": normal(at, 1, m), f"symbolic_fun.{at}.mask": np.zeros((m, n)),
            f"symbolic_fun.{at}.affine": np.zeros((m, n, 4)),
        }  # fmt: skip
    return floats(tensors)


def test_dropkan(tmp_path: Path) -> None:
    tensors = dropkan()
    where = ("act_fun.0.", "act_fun.1.")
    kan, family = read(save(tmp_path, tensors))
    assert family == "dropkan"
    for neuron, share in (("sum", 1), ("mean", 1)):
        kan, _ = read(save(tmp_path, tensors), f"neuron_fun={neuron}")
        row = np.random.default_rng(0).uniform(-2, 2, size=3)
        nodes = row
        for prefix, at in zip(where, (0, 1), strict=True):
            part = {k.removeprefix(prefix): v.astype(float) for k, v in tensors.items() if k.startswith(prefix)}
            values = np.array(pykan_edges(part, nodes.tolist()))
            total = values.sum(axis=0) if neuron == "sum" else values.mean(axis=0)
            nodes = share * total + tensors[f"biases.{at}.weight"][0]
        np.testing.assert_allclose(float64_reference.evaluate(kan, row[None]).y[0], nodes, rtol=1e-10)
    source = export(Request(path=save(tmp_path, tensors), repository=tmp_path / "m")).manifest.source
    assert beside_forward(source) == {"neuron_fun": "sum", "base_fun": "silu", "input_preprocessing": "none"}
    for option in ("neuron_fun=max", "input_preprocessing=ls"):
        error = refuse(tmp_path, tensors, option)
        assert isinstance(error, FamilyError)
        assert "--module" in error.hint
    tensors["symbolic_fun.0.mask"][0, 0] = 1
    assert "symbolic" in refuse(tmp_path, tensors, "symbolic_enabled=true").message
