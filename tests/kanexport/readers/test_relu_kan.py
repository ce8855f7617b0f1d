"""ReLU-KAN and KANditioned: piecewise polynomials without stored knots, compared with loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import InvalidKan, OpenQuestion, OptionError
from tests.support.small_checkpoints import beside_forward, check, read, refuse, save, stacked

WHERE = ("layers.0.", "layers.1.")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def relu_kan(n: int, m: int, grid: int = 5, k: int = 3, *, moved: float = 0.1) -> Any:
    """`moved`: how far training has moved the ends, in cells."""
    low = np.tile(np.arange(-k, grid) / grid, (n, 1))
    tensors = {
        "phase_low": low + moved / grid * normal(1, n, grid + k),
        "phase_height": low + (k + 1) / grid + moved / grid * normal(2, n, grid + k),
        "equal_size_conv.weight": normal(3, m, 1, grid + k, n),
        "equal_size_conv.bias": normal(4, m),
    }
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def relu_kan_edges(grid: int, k: int) -> Any:
    rate = 4 * grid * grid / ((k + 1) * (k + 1))

    def edges(part: Any, row: list[float]) -> Any:
        low, high = part["phase_low"], part["phase_height"]
        n, count = low.shape
        kernel = part["equal_size_conv.weight"]
        result = np.zeros((n, len(kernel)))
        for i, x in enumerate(row):
            for c in range(count):
                value = (max(x - low[i, c], 0) * max(high[i, c] - x, 0) * rate) ** 2
                # [n, C] laid over [C, n] without transposing.
                at = divmod(i * count + c, n)
                result[i] += value * kernel[:, 0, at[0], at[1]]
        return result

    return edges


def kanditioned(n: int, m: int, points: int = 6, *, scan: bool = False) -> Any:
    buffers = {"local_bias": np.arange(points).reshape(1, -1, 1), "feature_offset": np.arange(n)[None] * points}
    weights = ("r_weight", "l_weight") if scan else ("kan_weight",)
    return buffers | {key: normal(at, n, points, m).astype(np.float32) for at, key in enumerate(weights)}


def kanditioned_edges(width: float) -> Any:
    def value(part: Any, i: int, p: int, j: int) -> float:
        if "kan_weight" in part:
            return part["kan_weight"][i, p, j]
        right, left = part["r_weight"][i, :, j], part["l_weight"][i, :, j]
        return sum((p - q) * right[q] if p > q else (q - p) * left[q] for q in range(len(right)))

    def edges(part: Any, row: list[float]) -> Any:
        points = part["local_bias"].shape[1]
        n, _, m = part["kan_weight" if "kan_weight" in part else "r_weight"].shape
        result = np.zeros((n, m))
        for i, x in enumerate(row):
            u = (x + width / 2) * (points - 1) / width
            at = min(max(int(np.floor(u)), 0), points - 2)
            for j in range(m):
                result[i, j] = (1 - (u - at)) * value(part, i, at, j) + (u - at) * value(part, i, at + 1, j)
        return result

    return edges


@pytest.mark.parametrize(
    ("n", "m", "grid", "k"), [(3, 2, 5, 3), (1, 2, 4, 0), (5, 1, 1, 4), (8, 8, 5, 3), (1, 1, 1, 0)]
)
def test_relu_kan(tmp_path: Path, n: int, m: int, grid: int, k: int) -> None:
    tensors = relu_kan(n, m, grid, k)
    manifest = check(
        save(tmp_path, tensors), tensors, relu_kan_edges(grid, k), f"grid={grid}", f"k={k}", bias="equal_size_conv.bias"
    )
    assert manifest.source.family == "relu-kan"
    assert manifest.edge_class == "A"
    assert beside_forward(manifest.source) == {}


def test_relu_kan_from_one_of_its_numbers_or_from_its_ends(tmp_path: Path) -> None:
    tensors = stacked([relu_kan(3, 4), relu_kan(4, 2)])
    for options in (("grid=5",), ("k=3",), ()):
        manifest = check(
            save(tmp_path, tensors),
            tensors,
            relu_kan_edges(5, 3),
            *options,
            prefixes=WHERE,
            bias="equal_size_conv.bias",
        )
        assert beside_forward(manifest.source) == ({} if options else {"grid": "5", "k": "3"})


@pytest.mark.parametrize(("grid", "k"), [(g, k) for g in (1, 2, 5, 20) for k in (0, 1, 2, 3, 5)])
def test_ends_near_their_start_tell_k_and_others_ask(tmp_path: Path, grid: int, k: int) -> None:
    kan, _ = read(save(tmp_path, relu_kan(3, 2, grid, k, moved=0.05)))
    assert kan.layers[0].terms[0].basis.rate == 4 * grid**2 / (k + 1) ** 2
    error = refuse(tmp_path, relu_kan(3, 2, grid, k, moved=2.0))
    assert isinstance(error, OpenQuestion)
    assert f"the {grid + k} trained functions" in error.message
    assert error.key == "k"
    assert error.among == tuple(map(str, range(grid + k)))


def test_relu_kan_options_that_do_not_fit(tmp_path: Path) -> None:
    tensors = relu_kan(3, 2)
    for options in (("grid=5", "k=2"), ("grid=9",), ("k=8",), ("k=-1",), ("grid=0",), ("grid=five",)):
        error = refuse(tmp_path, tensors, *options)
        assert isinstance(error, OptionError)
        assert "grid" in error.message or "k is" in error.message
    assert "8 functions" in refuse(tmp_path, tensors, "grid=5", "k=2").message


def test_ends_that_have_crossed_make_a_function_of_zero(tmp_path: Path) -> None:
    tensors = relu_kan(3, 2)
    tensors["phase_height"][0, 2] = tensors["phase_low"][0, 2] - 0.5
    tensors["phase_height"][1] = tensors["phase_low"][1]
    check(save(tmp_path, tensors), tensors, relu_kan_edges(5, 3), "k=3", bias="equal_size_conv.bias")


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize(("n", "m", "points"), [(3, 2, 6), (1, 2, 2), (3, 1, 3), (4, 4, 32), (1, 1, 5)])
def test_kanditioned(tmp_path: Path, n: int, m: int, points: int, scan: bool) -> None:
    tensors = kanditioned(n, m, points, scan=scan)
    manifest = check(save(tmp_path, tensors), tensors, kanditioned_edges(4.0))
    assert manifest.source.family == "kanditioned"
    assert manifest.edge_class == "A"
    assert beside_forward(manifest.source) == {"w": "4.0"}


@pytest.mark.parametrize("option", ["w=1.5", "spline_width=1.5"])
def test_kanditioned_of_another_width(tmp_path: Path, option: str) -> None:
    tensors = stacked([kanditioned(3, 4), kanditioned(4, 2)])
    check(save(tmp_path, tensors), tensors, kanditioned_edges(1.5), option, prefixes=WHERE)
    for bad in ("0", "-1", "wide", "inf"):
        assert isinstance(refuse(tmp_path, tensors, f"{option[:-4]}={bad}"), InvalidKan | OptionError)


def test_kanditioned_in_float64_is_told_by_its_weights(tmp_path: Path) -> None:
    tensors = kanditioned(3, 2)
    tensors["kan_weight"] = tensors["kan_weight"].astype(np.float64)
    assert read(save(tmp_path, tensors))[0].dtype == "float64"


def test_kanditioned_needs_points_and_weights(tmp_path: Path) -> None:
    assert "1 point" in refuse(tmp_path, kanditioned(3, 2, 1)).message
    tensors = kanditioned(3, 2)
    del tensors["kan_weight"]
    assert "kan_weight" in refuse(tmp_path, tensors).message
    tensors = kanditioned(3, 2, scan=True)
    del tensors["l_weight"]
    assert "l_weight" in refuse(tmp_path, tensors).message


@pytest.mark.parametrize("make", [relu_kan, kanditioned])
def test_what_is_not_finite_is_named(tmp_path: Path, make: Any) -> None:
    for key in (key for key, value in make(3, 2).items() if value.dtype.kind == "f"):
        tensors = stacked([make(2, 3), make(3, 2)])
        tensors[f"layers.1.{key}"].flat[-1] = np.nan
        for options in ((), ("k=3",)) if make is relu_kan else ((),):
            error = refuse(tmp_path, tensors, *options)
            assert isinstance(error, InvalidKan)
            assert "layer layers.1:" in error.message
            assert "nan" in error.message


@pytest.mark.parametrize("make", [relu_kan, kanditioned])
def test_misshapen_tensors_are_named(tmp_path: Path, make: Any) -> None:
    whole = make(3, 2)
    for key in whole:
        empty, sources = whole[key][:0], whole[key][..., :2] if make is relu_kan else whole[key][:, :2]
        for change in (empty, whole[key][None], sources):
            if change.shape == whole[key].shape:
                continue
            error = refuse(tmp_path, whole | {key: change}, family=make.__name__.replace("_", "-"))
            assert isinstance(error, InvalidKan | OptionError)
            assert any(name in error.message for name in whole)
            assert key in error.message or change is not empty
