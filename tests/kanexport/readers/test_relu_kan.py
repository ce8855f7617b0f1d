"""ReLU-KAN, its copies and KANditioned: piecewise polynomials without stored knots, compared with loops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import InvalidKan, OpenQuestion, OptionError
from tests.support import small_checkpoints as small

STACK = ("layers.0.", "layers.1.")
BIAS = "equal_size_conv.bias"


def relu_kan(
    n: int, m: int, grid: int = 5, k: int = 3, *, moved: float = 0.1, high: str = "phase_height"
) -> small.Tensors:
    """`moved`: how far training has moved the ends, in cells."""
    low = np.tile(np.arange(-k, grid) / grid, (n, 1))
    return small.floats(
        {
            "phase_low": low + moved / grid * small.normal(1, n, grid + k),
            high: low + (k + 1) / grid + moved / grid * small.normal(2, n, grid + k),
            "equal_size_conv.weight": small.normal(3, m, 1, grid + k, n),
            BIAS: small.normal(4, m),
        }
    )


def relu(u: Any) -> Any:
    return np.maximum(u, 0)


def bumps(
    rate: float, power: int = 2, *, transposed: bool = False, act: Callable[[Any], Any] = relu, times_x: bool = False
) -> small.Edges:
    """Its kernel is [n, C] laid over [C, n] without transposing, unless a copy transposes."""

    def edges(part: small.Tensors, row: list[float]) -> Any:
        low, high = part["phase_low"], part.get("phase_height", part.get("phase_high"))
        x = np.array(row)[:, None]
        values = (act(x - low) * act(high - x) * rate) ** power * (x if times_x else 1)
        kernel = part["equal_size_conv.weight"][:, 0]
        kernel = kernel.swapaxes(1, 2) if transposed else kernel.reshape(len(kernel), *low.shape)
        return np.einsum("ic,oic->io", values, kernel)

    return edges


def rate(grid: int, k: int) -> float:
    return 4 * grid * grid / ((k + 1) * (k + 1))


def kanditioned(n: int, m: int, points: int = 6, *, scan: bool = False) -> small.Tensors:
    buffers = {"local_bias": np.arange(points).reshape(1, -1, 1), "feature_offset": np.arange(n)[None] * points}
    names = ("r_weight", "l_weight") if scan else ("kan_weight",)
    return buffers | small.floats({key: small.normal(at, n, points, m) for at, key in enumerate(names)})


def kanditioned_edges(width: float) -> small.Edges:
    def value(part: small.Tensors, i: int, p: int) -> Any:
        """[O]"""
        if "kan_weight" in part:
            return part["kan_weight"][i, p]
        right, left = part["r_weight"][i], part["l_weight"][i]
        return sum((p - q) * right[q] if p > q else (q - p) * left[q] for q in range(len(right)))

    def edges(part: small.Tensors, row: list[float]) -> Any:
        points, result = part["local_bias"].shape[1], []
        for i, x in enumerate(row):
            u = (x + width / 2) * (points - 1) / width
            at = min(max(int(np.floor(u)), 0), points - 2)
            result.append((1 - (u - at)) * value(part, i, at) + (u - at) * value(part, i, at + 1))
        return result

    return edges


def test_relu_kan(tmp_path: Path) -> None:
    for n, m, grid, k in ((3, 2, 5, 3), (1, 2, 4, 0), (5, 1, 1, 4), (8, 8, 5, 3), (1, 1, 1, 0)):
        tensors = relu_kan(n, m, grid, k)
        path = small.save(tmp_path, tensors)
        result = small.check(path, tensors, bumps(rate(grid, k)), f"grid={grid}", f"k={k}", bias=BIAS)
        assert (result.family, result.kan.edge_class, result.assumed) == ("relu-kan", "A", {})
    small.exported(path, "grid=1", "k=0")


def test_relu_kan_from_one_of_its_numbers_or_from_its_ends(tmp_path: Path) -> None:
    tensors = small.stacked([relu_kan(3, 4), relu_kan(4, 2)])
    path = small.save(tmp_path, tensors)
    for options in (("grid=5",), ("k=3",), ()):
        result = small.check(path, tensors, bumps(rate(5, 3)), *options, prefixes=STACK, bias=BIAS)
        assert result.assumed == ({} if options else {"grid": "5", "k": "3"})


def test_ends_near_their_start_tell_k_and_others_ask(tmp_path: Path) -> None:
    for grid, k in [(g, k) for g in (1, 2, 5, 20) for k in (0, 1, 2, 3, 5)]:
        assert small.reading(small.save(tmp_path, relu_kan(3, 2, grid, k, moved=0.05))).basis.rate == rate(grid, k)
        error = small.refuse(
            tmp_path, relu_kan(3, 2, grid, k, moved=2.0), kind=OpenQuestion, said=f"the {grid + k} trained functions"
        )
        assert error.key == "k"
        assert error.among == tuple(map(str, range(grid + k)))


def test_relu_kan_options_that_do_not_fit(tmp_path: Path) -> None:
    tensors = relu_kan(3, 2)
    for options in (("grid=5", "k=2"), ("grid=9",), ("k=8",), ("k=-1",), ("grid=0",), ("grid=five",)):
        message = small.refuse(tmp_path, tensors, *options, kind=OptionError).message
        assert "grid" in message or "k is" in message
    small.refuse(tmp_path, tensors, "grid=5", "k=2", said="8 functions")


def test_ends_that_have_crossed_make_a_function_of_zero(tmp_path: Path) -> None:
    tensors = relu_kan(3, 2)
    tensors["phase_height"][0, 2] = tensors["phase_low"][0, 2] - 0.5
    tensors["phase_height"][1] = tensors["phase_low"][1]
    small.check(small.save(tmp_path, tensors), tensors, bumps(rate(5, 3)), "k=3", bias=BIAS)
    small.exported(tmp_path / "model.safetensors", "k=3")


def test_relu_kans_copies(tmp_path: Path) -> None:
    tensors = relu_kan(3, 2, high="phase_high")
    path = small.save(tmp_path, tensors)
    small.check(path, tensors, bumps(rate(5, 3)), bias=BIAS)
    small.check(path, tensors, bumps(rate(5, 3), transposed=True), "forward=transposed", bias=BIAS)
    small.check(path, tensors, bumps(6.25, act=lambda u: u / (1 + np.exp(-u))), "forward=activated", bias=BIAS)
    small.check(path, tensors, bumps(6.25, act=np.tanh), "forward=activated", "base_activation=tanh", bias=BIAS)
    small.check(path, tensors, bumps(6.25, 1, times_x=True), "forward=times-x", bias=BIAS)
    small.exported(path, "forward=times-x")
    small.exported(path, "forward=activated", "base_activation=gelu")
    assert small.reading(path).options.open["forward"] == ("transposed", "hrkan", "activated", "times-x")
    assert small.reading(small.save(tmp_path, relu_kan(1, 2))).options.open["forward"] == (
        "hrkan",
        "activated",
        "times-x",
    )


def test_higher_order_relu_kans(tmp_path: Path) -> None:
    tensors = relu_kan(3, 2, 4, 2)
    for key in ("phase_low", "phase_height"):
        tensors[key] = 3 * tensors[key] - 1
    path, supplied = small.save(tmp_path, tensors), ("forward=hrkan", "grid_min=-1", "grid_max=2")
    small.check(path, tensors, bumps(2 / 2.25, 4), *supplied, bias=BIAS)
    told = (*supplied, f"rate={4 / 2.25**2!r}", "power=3")
    small.check(path, tensors, bumps(4 / 2.25**2, 3), *told, bias=BIAS)
    small.exported(path, *told)
    assert {"rate", "power"} <= set(small.reading(path, *supplied).options.open)
    small.refuse(tmp_path, tensors, "forward=hrkan", "grid_min=2", said="expected grid_min < grid_max")


@pytest.mark.parametrize("scan", [True, False])
def test_kanditioned(tmp_path: Path, scan: bool) -> None:
    for n, m, points in ((3, 2, 6), (1, 2, 2), (3, 1, 3), (4, 4, 32), (1, 1, 5)):
        tensors = kanditioned(n, m, points, scan=scan)
        path = small.save(tmp_path, tensors)
        result = small.check(path, tensors, kanditioned_edges(4.0))
        assert (result.family, result.kan.edge_class, result.assumed) == ("kanditioned", "A", {"w": "4.0"})
    small.exported(path)


def test_kanditioned_of_another_width(tmp_path: Path) -> None:
    tensors = small.stacked([kanditioned(3, 4), kanditioned(4, 2)])
    path = small.save(tmp_path, tensors)
    for key in ("w", "spline_width"):
        small.check(path, tensors, kanditioned_edges(1.5), f"{key}=1.5", prefixes=STACK)
        for bad in ("0", "-1", "wide", "inf"):
            small.refuse(tmp_path, tensors, f"{key}={bad}", kind=InvalidKan | OptionError)


def test_kanditioned_in_float64_is_told_by_its_weights(tmp_path: Path) -> None:
    tensors = kanditioned(3, 2)
    tensors["kan_weight"] = tensors["kan_weight"].astype(np.float64)
    assert small.read(small.save(tmp_path, tensors))[0].dtype == "float64"


def test_kanditioned_needs_points_and_weights(tmp_path: Path) -> None:
    small.refuse(tmp_path, kanditioned(3, 2, 1), said="1 point")
    for scan, key in ((False, "kan_weight"), (True, "l_weight")):
        tensors = kanditioned(3, 2, scan=scan)
        del tensors[key]
        assert key in small.refuse(tmp_path, tensors).message
