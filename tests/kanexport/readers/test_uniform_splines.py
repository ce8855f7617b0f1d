"""inkan, flashkan and KANX: splines on grids that are not fully stored, compared with the formulas in loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import InvalidKan, OptionError
from tests.support.small_checkpoints import beside_forward, check, read, refuse, save, silu, stacked

WHERE = ("layers.0.", "layers.1.")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def starts(low: float, high: float, cells: int, kind: Any = np.float32) -> np.ndarray:
    """As inkan and flashkan store them."""
    step = (high - low) / cells
    return np.arange(cells + 3, dtype=kind) * kind(step) + kind(low) - kind(3 * step)


def inkan(n: int, m: int, cells: int = 5, span: tuple[float, float] = (-1.2, 0.2), kind: Any = np.float32) -> Any:
    return {"grid_starts": starts(*span, cells, kind), "weight": normal(1, m, n * (cells + 3) + n).astype(kind)}


def flashkan(n: int, m: int, cells: int = 5, span: tuple[float, float] = (-1.2, 0.2)) -> Any:
    weights = {"spline_weight": normal(1, m, n, cells + 3), "base_weight": normal(2, m, n)}
    return {"grid_starts": starts(*span, cells)} | {key: value.astype(np.float32) for key, value in weights.items()}


def kanx(n: int, m: int, cells: int = 5, k: int = 3, kind: Any = np.float32) -> Any:
    grid = np.sort(np.random.default_rng(0).uniform(-1.5, 1.5, size=(n, cells + 1)), axis=1)
    tensors = {"base_weight": normal(1, n, m), "spline_weight": normal(2, n, m, cells + k), "grid": grid}
    return {key: value.astype(kind) for key, value in tensors.items()}


def efficient_kan(n: int, m: int, cells: int = 5, k: int = 3) -> Any:
    grid = np.tile(np.linspace(-2, 2, cells + 2 * k + 1), (n, 1))
    tensors = {"base_weight": normal(1, m, n), "spline_weight": normal(2, m, n, cells + k), "grid": grid}
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def cubic(u: float) -> float:
    """The cubic B-spline on 0, 1, 2, 3, 4, piece by piece."""
    s = min(u, 4 - u)
    if s <= 0:
        return 0.0
    v = s - 1
    return s**3 / 6 if v <= 0 else (1 + 3 * v + 3 * v**2 - 3 * v**3) / 6


def inkan_edges(h: float, act: Any = silu) -> Any:
    def edges(part: Any, row: list[float]) -> Any:
        first, k = part["grid_starts"][0], len(part["grid_starts"])
        m, n = len(part["weight"]), len(row)
        return [
            [
                sum(part["weight"][j, i * k + c] * cubic((row[i] - first) / h - c) for c in range(k))
                + part["weight"][j, n * k + i] * act(row[i])
                for j in range(m)
            ]
            for i in range(n)
        ]

    return edges


def flashkan_edges(h: float, act: Any = silu) -> Any:
    def edges(part: Any, row: list[float]) -> Any:
        spline, base = part["spline_weight"], part["base_weight"]
        sixth = 0.16666667 * 6
        return [
            [
                sum(spline[j, i, c] * sixth * cubic((x - s) / h) for c, s in enumerate(part["grid_starts"]))
                + base[j, i] * act(x)
                for j in range(len(base))
            ]
            for i, x in enumerate(row)
        ]

    return edges


def bspline(x: float, t: list[float], c: int, k: int) -> float:
    """Cox-de Boor, where 0 / 0 counts as 0."""
    if k == 0:
        return 1.0 if t[c] <= x < t[c + 1] else 0.0
    left = (x - t[c]) / (t[c + k] - t[c] or 1) * bspline(x, t, c, k - 1)
    return left + (t[c + k + 1] - x) / (t[c + k + 1] - t[c + 1] or 1) * bspline(x, t, c + 1, k - 1)


def kanx_edges(act: Any = silu) -> Any:
    def edges(part: Any, row: list[float]) -> Any:
        _, m, count = part["spline_weight"].shape
        cells = part["grid"].shape[1] - 1
        k, result = count - cells, []
        for i, x in enumerate(row):
            grid = part["grid"][i].tolist()
            h = (grid[-1] - grid[0]) / cells
            t = [grid[0] - h * p for p in range(k, 0, -1)] + grid + [grid[-1] + h * p for p in range(1, k + 1)]
            basis = [bspline(x, t, c, k) for c in range(count)]
            result.append([part["spline_weight"][i, j] @ basis + part["base_weight"][i, j] * act(x) for j in range(m)])
        return result

    return edges


@pytest.mark.parametrize(("n", "m", "cells"), [(3, 2, 5), (1, 2, 1), (3, 1, 12), (4, 4, 5), (1, 1, 2)])
def test_lone_layers(tmp_path: Path, n: int, m: int, cells: int) -> None:
    h = (0.2 - -1.2) / cells
    for tensors, edges, family in (
        (inkan(n, m, cells), inkan_edges(h), "inkan"),
        (flashkan(n, m, cells), flashkan_edges(h), "flashkan"),
        (kanx(n, m, cells), kanx_edges(), "kanx"),
    ):
        manifest = check(save(tmp_path, tensors), tensors, edges)
        assert manifest.source.family == family
        assert manifest.edge_class == "A"
        assumed = {"base_activation": "silu"} | ({"h": repr(h)} if family != "kanx" else {})
        assert beside_forward(manifest.source) == assumed
        assert manifest.layers[0].bases[0].kind == "bspline"
        assert manifest.layers[0].bases[0].parameters["intervals"] == str(cells)


def test_stacks_and_options(tmp_path: Path) -> None:
    for make, edges in ((inkan, inkan_edges), (flashkan, flashkan_edges)):
        tensors = stacked([make(3, 4), make(4, 2)])
        options = ("h=0.25", "base_activation=tanh")
        check(save(tmp_path, tensors), tensors, edges(0.25, math.tanh), *options, prefixes=WHERE)
        for option, text in (("h=0", "0"), ("h=wide", "wide"), ("base_activation=magic", "magic"), ("k=3", "'k'")):
            assert text in refuse(tmp_path, tensors, option).message
    tensors = stacked([kanx(3, 4), kanx(4, 2)], "")
    check(save(tmp_path, tensors), tensors, kanx_edges(math.tanh), "base_activation=tanh", prefixes=("0.", "1."))


def test_starts_in_float64(tmp_path: Path) -> None:
    tensors = inkan(3, 2, kind=np.float64)
    manifest = check(save(tmp_path, tensors), tensors, inkan_edges((0.2 - -1.2) / 5))
    assert manifest.source.dtype == "float64"
    assert manifest.layers[0].bases[0].knots[0][3] == pytest.approx(-1.2, abs=1e-15)


def test_a_surface_over_two_inputs_is_no_edge(tmp_path: Path) -> None:
    tensors = inkan(2, 3)
    tensors["weight"] = normal(1, 3, 8 * 8 + 2).astype(np.float32)
    error = refuse(tmp_path, tensors)
    assert "66 columns" in error.message
    assert "dim=2" in error.hint
    tensors["weight"] = normal(1, 3, 20).astype(np.float32)
    assert "dim=2" not in refuse(tmp_path, tensors).hint
    tensors = flashkan(2, 3) | {"spline_weight": normal(1, 3, 8, 8).astype(np.float32)}  # inkan's, before 0.4
    assert "spline_weight" in refuse(tmp_path, tensors).message


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("cells", [1, 4])
def test_kanx_of_every_degree(tmp_path: Path, k: int, cells: int) -> None:
    tensors = kanx(3, 2, cells, k, np.float64)
    manifest = check(save(tmp_path, tensors), tensors, kanx_edges())
    assert manifest.layers[0].bases[0].parameters["degree"] == str(k)


@pytest.mark.parametrize("k", [1, 3])
def test_kanx_grids_may_repeat_knots(tmp_path: Path, k: int) -> None:
    tensors = kanx(3, 2, 5, k)
    tensors["grid"][0] = [-1, 0, 0, 0.5, 0.5, 1]
    tensors["grid"][1] = [0, 0, 0, 0, 0, 1]
    tensors["grid"][2] = 0.25
    check(save(tmp_path, tensors), tensors, kanx_edges())
    tensors["grid"][1, 2] = -0.5
    error = refuse(tmp_path, tensors)
    assert isinstance(error, InvalidKan)
    assert "knots of source 1 are not increasing" in error.message


def test_kanx_keeps_the_activation_its_file_names(tmp_path: Path) -> None:
    """Its save() writes the arguments of the constructor next to the state dict."""
    torch = pytest.importorskip("torch")
    tensors = stacked([kanx(3, 4), kanx(4, 2)], "")
    file = {
        "state_dict": {key: torch.from_numpy(value) for key, value in tensors.items()},
        "layers_spec": [3, 4, 2],
        "defaults": {"grid_size": 5, "spline_order": 3, "base_activation": "Tanh", "grid_range": (-1.0, 1.0)},
    }
    for layers, names in (([3, 4, 2], ("Tanh", "Tanh")), ([{"base_activation": "swish"}, {}], ("swish", "Tanh"))):
        torch.save(file | {"layers_spec": layers}, tmp_path / "m.pt")
        kan, family = read(tmp_path / "m.pt")
        assert family == "kanx"
        known = {"Tanh": "tanh", "swish": "silu"}
        assert [layer.terms[1].kind for layer in kan.layers] == [known[name] for name in names]
    torch.save(file, tmp_path / "m.pt")
    manifest = check(tmp_path / "m.pt", tensors, kanx_edges(math.tanh), prefixes=("0.", "1."))
    assert beside_forward(manifest.source) == {}
    check(tmp_path / "m.pt", tensors, kanx_edges(), "base_activation=silu", prefixes=("0.", "1."))
    for odd in ([], {"base_activation": 5}, {"base_activation": None}, "tanh"):
        torch.save(file | {"defaults": odd, "layers_spec": odd}, tmp_path / "m.pt")
        assert read(tmp_path / "m.pt")[0].layers[0].terms[1].kind == "silu"


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize(("cells", "k"), [(1, 1), (1, 3), (5, 3), (8, 5)])
def test_kanx_and_efficient_kan_are_told_apart_where_all_axes_are_equal(
    tmp_path: Path, n: int, cells: int, k: int
) -> None:
    assert read(save(tmp_path, kanx(n, n, cells, k)))[1] == "kanx"
    assert read(save(tmp_path, efficient_kan(n, n, cells, k)))[1] == "efficient-kan"
    error = refuse(tmp_path, efficient_kan(n, n, cells, k), family="kanx")
    assert isinstance(error, InvalidKan)
    assert "efficient-kan" in error.hint
    assert "kanx" in refuse(tmp_path, kanx(n, n, cells, k), family="efficient-kan").hint


def test_a_grid_of_neither_library_is_refused(tmp_path: Path) -> None:
    tensors = kanx(3, 3)
    tensors["grid"] = np.tile(np.linspace(-1, 1, 9), (3, 1)).astype(np.float32)  # degree 0 of both
    assert "are ambiguous" in refuse(tmp_path, tensors).message


def test_a_scaler_is_efficient_kans(tmp_path: Path) -> None:
    tensors = kanx(3, 3) | {"spline_scaler": np.ones((3, 3), np.float32)}
    assert "are ambiguous" in refuse(tmp_path, tensors).message


@pytest.mark.parametrize("make", [inkan, flashkan, kanx])
def test_what_is_not_finite_is_named(tmp_path: Path, make: Any) -> None:
    for key in make(3, 2):
        tensors = stacked([make(2, 3), make(3, 2)])
        tensors[f"layers.1.{key}"].flat[-1] = np.nan
        error = refuse(tmp_path, tensors)
        assert isinstance(error, InvalidKan)
        assert "layer layers.1:" in error.message
        assert "nan" in error.message


@pytest.mark.parametrize("make", [inkan, flashkan, kanx])
def test_misshapen_tensors_are_named(tmp_path: Path, make: Any) -> None:
    whole = make(3, 2)
    for key in whole:
        error = refuse(tmp_path, whole | {key: whole[key][:0]}, family=make.__name__)
        assert isinstance(error, InvalidKan)
        assert key in error.message
        # KANX tells its degree by the last axes, so that another length is another degree.
        for change in (whole[key][:-1] if make is kanx else whole[key][..., :-1], whole[key][None]):
            error = refuse(tmp_path, whole | {key: change}, family=make.__name__)
            assert isinstance(error, InvalidKan | OptionError)
            assert any(name in error.message for name in whole)
