"""efficient-kan and its copies: stacks, single layers and prefixes, compared with the formula."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import FamilyError
from tests.support.small_checkpoints import Edges, Tensors, check, exported, layer, reading, refuse, save, silu, spline


def stack(*widths: int, prefix: str = "layers.", **options: Any) -> Tensors:
    return {
        f"{prefix}{at}.{key}": value
        for at, (n, m) in enumerate(itertools.pairwise(widths))
        for key, value in layer(n, m, at, **options).items()
    }


def splines_of(
    inner: Callable[[float], float] = lambda x: x, act: Callable[[float], float] = silu, *, scaled: bool = True
) -> Edges:
    """Splines of `inner(x)`, and `act(x)`."""

    def edges(part: Tensors, row: list[float]) -> Any:
        m, n, count = part["spline_weight"].shape
        grid = np.broadcast_to(part["grid"], (n, part["grid"].shape[-1])).tolist()
        degree = len(grid[0]) - count - 1
        values = [[spline(inner(x), grid[i], c, degree) for c in range(count)] for i, x in enumerate(row)]
        scale = part["spline_scaler"] if scaled and "spline_scaler" in part else np.ones((m, n))
        own = np.einsum("oi,oic,ic->io", scale, part["spline_weight"], values)
        return own + part["base_weight"].T * np.array([act(x) for x in row])[:, None]

    return edges


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_a_stack(tmp_path: Path, k: int, uniform: bool) -> None:
    tensors = stack(3, 2, 4, k=k, uniform=uniform)
    result = check(save(tmp_path, tensors), tensors, splines_of(), prefixes=("layers.0.", "layers.1."))
    assert result.family == "efficient-kan"
    assert result.assumed == {"base_activation": "silu", "spline_scaler": "used"}
    assert result.basis.parameters()["uniform"] == str(uniform).lower()


def test_a_lone_layer_without_scaler_and_options(tmp_path: Path) -> None:
    check(save(tmp_path, lone := layer(3, 2, scaler=False)), lone, splines_of())
    tensors = stack(2, 2)
    activation = splines_of(act=math.tanh)
    check(save(tmp_path, tensors), tensors, activation, "base_activation=Tanh", prefixes=["layers.0."])
    for option, text in (("base_activation=magic", "magic"), ("input_id=0,1", "input_id")):
        assert text in refuse(tmp_path, tensors, option).message


INNER: dict[str, Callable[[float], float]] = {
    "efficient-kan": lambda x: x,
    "spline-of-tanh": math.tanh,
    "spline-of-tanh-01": lambda x: (math.tanh(x) + 1) / 2,
    "spline-clamped": lambda x: min(max(x, float(np.float32(-1))), float(np.float32(1))),
}


def copy(*, row: bool = False, bias: bool = False) -> Tensors:
    """A layer on the grid of five cells in (-1, 1) that copies keep, for each source or in one row."""
    tensors = layer(3, 2, g=5)
    knots = (np.arange(-3, 9) * 0.4 - 1).astype(np.float32)
    return tensors | {"grid": knots if row else np.tile(knots, (3, 1))} | ({"bias": knots[:2]} if bias else {})


def test_copies_of_efficient_kan(tmp_path: Path) -> None:
    tensors = copy()
    path = save(tmp_path, tensors)
    for forward, inner in INNER.items():
        check(path, tensors, splines_of(inner), f"forward={forward}")
    check(path, tensors, splines_of(scaled=False), "spline_scaler=unused")
    assert set(reading(path).options.open["forward"]) == set(INNER) - {"efficient-kan"}
    exported(path, "forward=spline-of-tanh-01")
    tensors = copy(row=True, bias=True)
    assert check(save(tmp_path, tensors), tensors, splines_of(), bias="bias").family == "efficient-kan-row"


def test_tensors_of_other_modules_are_refused_with_advice(tmp_path: Path) -> None:
    tensors = {**stack(3, 2, prefix="kan.layers."), "conv.weight": np.ones((2, 2), np.float32)}
    refuse(tmp_path, tensors, kind=FamilyError, said="conv.weight", hint="--option prefix=")
    check(save(tmp_path, tensors), tensors, splines_of(), "prefix=kan.", prefixes=["kan.layers.0."])
    refuse(tmp_path, tensors, "prefix=nowhere.", said="no efficient-kan layer")
