"""BSRBF-KAN, FC-KAN, KAF, KANLib, TruKAN, DropKAN and single pykan layers, compared with their formulas."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.verify import float64_reference
from tests.support import small_checkpoints as small

KNOTS = np.arange(-2, 7) * 0.75 - 1.5  # G = 4, k = 2: six functions
CENTRES = np.linspace(-1.5, 1.5, 6)
WIDTH = 3 / 5


def bsrbf(n: int, m: int) -> small.Tensors:
    return small.floats(
        {
            "base_weight": small.normal(1, m, n),
            "spline_weight": small.normal(2, m, n * 6),
            "rbf.grid": CENTRES,
            "grid": np.tile(KNOTS, (n, 1)),
            "layernorm.weight": 1 + 0.2 * small.normal(3, n),
            "layernorm.bias": small.normal(4, n),
        }
    )


def bump(part: small.Tensors, h: float, c: int, kind: str) -> float:
    if kind == "bs":
        return small.spline(h, part["grid"][0], c, 2)
    return math.exp(-(((h - part["rbf.grid"][c]) / WIDTH) ** 2))


def bsrbf_edges(part: small.Tensors, row: list[float]) -> Any:
    h = small.layernorm(part, row)
    values = [[bump(part, u, c, "bs") + bump(part, u, c, "rbf") for c in range(6)] for u in h]
    weights = part["spline_weight"].reshape(-1, len(row), 6)
    return (
        np.einsum("oic,ic->io", weights, values) + part["base_weight"].T * np.array(list(map(small.silu, h)))[:, None]
    )


def test_bsrbf_kan(tmp_path: Path) -> None:
    tensors = bsrbf(3, 2)
    path = small.save(tmp_path, tensors)
    result = small.check(path, tensors, bsrbf_edges)
    assert result.family == small.exported(path).source.family == "bsrbf-kan"
    assert set(result.assumed) == {"base_activation", "denominator", "layernorm_eps"}
    small.refuse(tmp_path, tensors | {"grid": tensors["grid"][:, :7]}, kind=InvalidKan)


def fc_kan(functions: int) -> small.Tensors:
    layers = [
        bsrbf(n, m) | small.floats({"scale": 0.5 + small.normal(5, m, n) ** 2, "translation": small.normal(6, m, n)})
        for n, m in ((3, 4), (4, 2))
    ]
    return small.stacked(layers) | small.floats({"concat_weight": small.normal(7, 2, 2 * functions)})


def stream(part: small.Tensors, row: list[float], name: str) -> list[float]:
    """One function of FC-KAN in one layer."""
    h = small.layernorm(part, row)
    if name in ("bs", "rbf"):
        values = [bump(part, u, c, name) for u in h for c in range(6)]
        return list(part["spline_weight"] @ values)
    if name == "dog":
        u = (h - part["translation"]) / part["scale"]
        return list((part["base_weight"] * -u * np.exp(-u * u / 2)).sum(axis=1))
    return list(part["base_weight"] @ [{"base": small.silu, "arctan": math.atan}[name](u) for u in h])


def combine(kind: str, rows: np.ndarray, concat: np.ndarray) -> Any:
    total, product, squares = rows.sum(axis=0), rows.prod(axis=0), (rows**2).sum(axis=0)
    return {
        "quadratic": total + product + squares, "sum": total, "product": product, "sum_product": total + product,
        "quadratic2": product + squares, "quadratic3": squares, "cubic": (total + product + squares) * total,
        "mean": total / len(rows), "concat": rows.reshape(-1), "concat_linear": concat @ rows.reshape(-1),
    }[kind]  # fmt: skip


FC_CASES = [(("bs", "dog"), kind) for kind in ("quadratic", "sum", "product", "sum_product", "quadratic2")]
FC_CASES += [(("rbf", "arctan", "base"), kind) for kind in ("quadratic3", "cubic", "mean", "concat", "concat_linear")]


@pytest.mark.parametrize(("functions", "kind"), [*FC_CASES, (("dog",), "")])
def test_fc_kan(tmp_path: Path, functions: tuple[str, ...], kind: str) -> None:
    tensors = fc_kan(len(functions))
    supplied = (f"func_list={','.join(functions)}", *((f"combined_type={kind}",) if kind else ()))
    kan, family = small.read(small.save(tmp_path, tensors), *supplied)
    assert (family, kan.edge_class) == ("fc-kan", "B")
    x = np.random.default_rng(3).uniform(-2, 2, size=(5, 3))
    parts = [small.under(tensors, f"layers.{at}.") for at in (0, 1)]
    for row, actual in zip(x.tolist(), float64_reference.evaluate(kan, x).y, strict=True):
        rows = np.array([stream(parts[1], stream(parts[0], row, name), name) for name in functions])
        expected = combine(kind, rows, tensors["concat_weight"].astype(float)) if kind else rows[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


def test_what_fc_kans_file_does_not_tell(tmp_path: Path) -> None:
    source = small.exported(small.save(tmp_path, fc_kan(2))).source
    assert source.options_assumed["func_list"] == "bs,dog"
    assert source.options_assumed["combined_type"] == "quadratic"
    assert "bs,rbf" in source.alternatives["func_list"]
    small.refuse(tmp_path, fc_kan(2), "func_list=bs,swish", kind=FamilyError, hint="--module")
    small.refuse(tmp_path, fc_kan(2), "func_list=bs", kind=OptionError)


def kanlib(kind: str, *, whole: bool) -> small.Tensors:
    grid = np.stack([KNOTS, KNOTS + 1]) if kind == "bs" else np.stack([CENTRES, 2 * CENTRES])
    tensors = {"coefficients": small.normal(1, 3, 2, 6), "basis.grid": grid}
    if whole:
        tensors |= {
            "weight_spline": small.normal(2, 3, 2), "weight_residual": small.normal(3, 3, 2),
            "spline_input_norm.weight": 1 + 0.2 * small.normal(5, 2), "spline_input_norm.bias": small.normal(6, 2),
            "bias_output": small.normal(4, 3),
        }  # fmt: skip
        if kind == "rbf":
            tensors["basis.epsilon"] = np.array([[1.5], [0.75]])
    return small.floats(tensors)


def kanlib_edges(part: small.Tensors, row: list[float]) -> Any:
    whole, grid = "weight_spline" in part, part["basis.grid"]
    inner = small.layernorm(part, row, "spline_input_norm") if whole else row
    if grid.shape[1] == 6:  # centres
        rate = part.get("basis.epsilon", 5 / np.ptp(grid, axis=1, keepdims=True))
        values = np.exp(-((rate * (np.array(inner)[:, None] - grid)) ** 2))
    else:
        values = np.array([[small.spline(u, grid[i], c, 2) for c in range(6)] for i, u in enumerate(inner)])
    total = np.einsum("oic,ic->io", part["coefficients"], values)
    if not whole:
        return total
    return total * part["weight_spline"].T + part["weight_residual"].T * np.array(list(map(small.silu, row)))[:, None]


@pytest.mark.parametrize("kind", ["bs", "rbf"])
def test_kanlib(tmp_path: Path, kind: str) -> None:
    for whole in (True, False):
        tensors = kanlib(kind, whole=whole)
        assert small.check(small.save(tmp_path, tensors), tensors, kanlib_edges, bias="bias_output").family == "kanlib"
    small.exported(tmp_path / "model.safetensors")


def test_kanlibs_grid_must_fit_its_coefficients(tmp_path: Path) -> None:
    tensors = kanlib("bs", whole=False)
    small.refuse(tmp_path, tensors | {"basis.grid": tensors["basis.grid"][:, :5]}, said="centers, or")
    flat = np.zeros_like(kanlib("rbf", whole=False)["basis.grid"])
    small.refuse(tmp_path, kanlib("rbf", whole=False) | {"basis.grid": flat}, said="denominator")


def trukan(n: int, m: int, knots: np.ndarray, degree: int, name: str = "fixed_knots") -> small.Tensors:
    count = degree + 1 + knots.shape[-1]
    tensors = {"coeffs": small.normal(1, n, m, count), "bias_out": small.normal(2, m), name: knots}
    return small.floats(tensors | ({"exponents": np.arange(degree + 1)} if degree != 3 else {}))


def truncated(degree: int, knots: Callable[[small.Tensors], Any]) -> small.Edges:
    def edges(part: small.Tensors, row: list[float]) -> Any:
        x, t = np.array(row)[:, None], knots(part)
        values = [x**p for p in range(degree + 1)] + [np.maximum(x - t, 0) ** degree]
        return np.einsum("ioc,ic->io", part["coeffs"], np.concatenate(values, axis=1))

    return edges


def test_trukan(tmp_path: Path) -> None:
    for degree, count in ((3, 9), (1, 1), (2, 2), (5, 4)):
        tensors = trukan(3, 2, np.tile(np.linspace(-1.5, 1.5, count + 2)[1:-1], (3, 1)), degree)
        path = small.save(tmp_path, tensors)
        result = small.check(path, tensors, truncated(degree, lambda p: p["fixed_knots"]), bias="bias_out")
        assert (result.family, result.assumed) == ("trukan", {})


def test_trukans_learnt_knots_and_knots_an_edge(tmp_path: Path) -> None:
    def learnt(part: small.Tensors) -> Any:
        grown = np.cumsum(np.log1p(np.exp(part["raw_knots"])) + 1e-8, axis=1)
        return -2 + 3.5 * grown / grown[:, -1:]

    tensors = trukan(3, 2, small.normal(5, 3, 4), 3, "raw_knots")
    path = small.save(tmp_path, tensors)
    small.check(path, tensors, truncated(3, learnt), "knots_min=-2", "knots_max=1.5", bias="bias_out")
    result = small.check(path, tensors, truncated(3, lambda p: (learnt(p) + 2) / 1.75 - 1), bias="bias_out")
    assert result.assumed == {"knots_min": "-1.0", "knots_max": "1.0"}
    every = np.tile(np.linspace(-1, 1, 4), (3, 2, 1))
    tensors = trukan(3, 2, every, 3)
    small.check(small.save(tmp_path, tensors), tensors, truncated(3, lambda p: p["fixed_knots"][:, 0]), bias="bias_out")
    every[0, 1] += 0.1
    small.refuse(tmp_path, trukan(3, 2, every, 3), hint="--module")


def test_a_trukan_of_many_knots_keeps_its_digits_in_float32(tmp_path: Path) -> None:
    """A spline of 200 grid intervals with truncated powers that cancel: the verification of the export is the test."""
    knots = np.linspace(-1, 1, 202)[1:-1]
    tensors = trukan(2, 2, np.tile(knots, (2, 1)), 3)
    wanted = np.cos(3 * np.pi * knots)  # jumps of the third derivative that alternate and cancel
    tensors["coeffs"][:, :, 4:] = (1e3 * wanted).astype(np.float32)
    zones = small.exported(small.save(tmp_path, tensors)).verification.zones
    assert max(zone.outputs_max_rel for zone in zones) < 1e-5


def kaf(n: int, m: int) -> small.Tensors:
    return small.floats(
        {
            "base_scale": np.float64(1.2),
            "spline_scale": np.float64(-0.7),
            "final_linear.weight": small.normal(1, m, n),
            "final_linear.bias": small.normal(2, m),
            "feature_transform.weight": small.normal(3, n, 5),
            "feature_transform.bias": small.normal(4, 5),
            "feature_transform.combination.weight": small.normal(5, n, 10),
            "feature_transform.combination.bias": small.normal(6, n),
            "layernorm.weight": 1 + 0.2 * small.normal(7, n),
            "layernorm.bias": small.normal(8, n),
        }
    )


@pytest.mark.parametrize("used", [True, False])
def test_kaf(tmp_path: Path, used: bool) -> None:
    def edges(part: small.Tensors, row: list[float]) -> Any:
        h = np.array(small.layernorm(part, row) if used else row)
        inner = h @ part["feature_transform.weight"] + part["feature_transform.bias"]
        waves = np.concatenate([np.cos(inner), np.sin(inner)])
        s = part["feature_transform.combination.weight"] @ waves + part["feature_transform.combination.bias"]
        gelu = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in row])
        node = part["base_scale"] * gelu + part["spline_scale"] * s
        return part["final_linear.weight"].T * node[:, None]

    tensors = kaf(3, 2)
    path, supplied = small.save(tmp_path, tensors), () if used else ("layernorm=unused",)
    result = small.check(path, tensors, edges, *supplied, bias="final_linear.bias")
    assert result.kan.edge_class == small.exported(path, *supplied).edge_class == "B"
    assert result.assumed["base_activation"] == "gelu"


def pykan_layer(n: int, m: int) -> small.Tensors:
    return small.floats(
        {
            "coef": small.normal(1, n, m, 6),
            "grid": np.stack([KNOTS + 0.1 * i for i in range(n)]),
            "scale_base": small.normal(2, n, m),
            "scale_sp": small.normal(3, n, m),
            "mask": np.arange(n * m).reshape(n, m) % 3 != 0,
        }
    )


def pykan_edges(part: small.Tensors, row: list[float]) -> Any:
    values = [[small.spline(x, part["grid"][i], c, 2) for c in range(6)] for i, x in enumerate(row)]
    own = part["scale_base"] * np.array(list(map(small.silu, row)))[:, None]
    own += part["scale_sp"] * np.einsum("ioc,ic->io", part["coef"], values)
    return own * part.get("mask", 1)


def test_single_layers_of_pykan(tmp_path: Path) -> None:
    tensors = small.stacked([pykan_layer(3, 4), pykan_layer(4, 2)], "kan.")
    path = small.save(tmp_path, tensors)
    assert small.check(path, tensors, pykan_edges, prefixes=("kan.0.", "kan.1.")).family == "pykan-layer"
    small.exported(path)


def flat_layer(n: int, m: int) -> small.Tensors:
    """The same in pykan 0.0: edge j n + i, grids that are not extended."""
    whole = pykan_layer(n, m)
    by_edge = {
        key: np.swapaxes(whole[key], 0, 1).reshape(n * m, *whole[key].shape[2:])
        for key in ("coef", "scale_base", "scale_sp", "mask")
    }
    return by_edge | {"grid": np.tile(whole["grid"][:, 2:-2], (m, 1))}


def test_single_layers_of_pykan_0_0_need_their_sources(tmp_path: Path) -> None:
    shapes = ((3, 4), (4, 2))
    new = small.stacked([pykan_layer(n, m) for n, m in shapes])
    old = small.stacked([flat_layer(n, m) for n, m in shapes])
    kan, family = small.read(small.save(tmp_path, old), "in_dim=3,4")
    assert family == "pykan-0.0-layer"
    x = np.random.default_rng(0).uniform(-2, 2, size=(20, 3))
    expected = float64_reference.evaluate(small.read(small.save(tmp_path, new))[0], x).y
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, expected, rtol=1e-6, atol=1e-6)
    small.refuse(tmp_path, old, kind=OptionError, hint="in_dim")
    small.refuse(tmp_path, old, "in_dim=5", said="divide")


def dropkan() -> small.Tensors:
    layers = {"neuron_train": np.ones(1)}
    tensors: small.Tensors = {}
    for at, (n, m) in enumerate(((3, 4), (4, 2))):
        own = pykan_layer(n, m) | layers
        del own["mask"]
        tensors |= {f"act_fun.{at}.{key}": value for key, value in own.items()}
        tensors |= {
            f"biases.{at}.weight": small.normal(at, 1, m), f"symbolic_fun.{at}.mask": np.zeros((m, n)),
            f"symbolic_fun.{at}.affine": np.zeros((m, n, 4)),
        }  # fmt: skip
    return small.floats(tensors)


def test_dropkan(tmp_path: Path) -> None:
    tensors = dropkan()
    path, row = small.save(tmp_path, tensors), np.random.default_rng(0).uniform(-2, 2, size=3)
    for neuron in ("sum", "mean"):
        kan, family = small.read(path, f"neuron_fun={neuron}")
        assert family == "dropkan"
        nodes = row
        for at in (0, 1):
            values = np.array(pykan_edges(small.under(tensors, f"act_fun.{at}."), nodes.tolist()))
            total = values.sum(axis=0) if neuron == "sum" else values.mean(axis=0)
            nodes = total + tensors[f"biases.{at}.weight"][0]
        np.testing.assert_allclose(float64_reference.evaluate(kan, row[None]).y[0], nodes, rtol=1e-10)
    own = small.beside_forward(small.exported(path).source)
    assert own == {"neuron_fun": "sum", "base_fun": "silu", "input_preprocessing": "none"}
    for option in ("neuron_fun=max", "input_preprocessing=ls"):
        small.refuse(tmp_path, tensors, option, kind=FamilyError, hint="--module")
    tensors["symbolic_fun.0.mask"][0, 0] = 1
    small.refuse(tmp_path, tensors, "symbolic_enabled=true", said="symbolic")
