"""Coincident knots: pykan's recursion in plain loops, and each library's handling of 0 / 0."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kanexport.bases.bspline import BSpline, Repeated
from kanexport.errors import InvalidKan
from kanexport.pipeline import Request, Result, export
from tests.support.small_checkpoints import exported, floats, normal, reading, refuse, refused, save, silu, under

# Cores of five cells, as `update_grid_from_samples` makes them of discrete values without any
# uniform part, and the step that `extend_grid` then takes.
CORES = {
    "constant": ([0.375] * 6, 0.0),
    "constant and large": ([1000.25] * 6, 0.0),
    "binary": ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 0.2),
    "mostly zero": ([-1.5, 0.0, 0.0, 0.0, 0.0, 2.0], 0.7),
    "ends": ([-1.0, -1.0, 0.25, 0.5, 1.0, 1.0], 0.4),
    "pair": ([-1.0, -0.5, 0.25, 0.25, 0.5, 1.0], 0.4),
    "a millionth apart": ([-1.0, -0.5, 0.25, 0.25 + 2.0**-20, 0.5, 1.0], 0.4),
    "reversed by rounding": ([-1.0, -0.5, 0.25, 0.25 - 2.0**-20, 0.5, 1.0], 0.4),
}


def knots(name: str, k: int) -> list[float]:
    core, step = CORES[name]
    below = [core[0] - step * n for n in range(k, 0, -1)]
    return [float(np.float32(t)) for t in [*below, *core, *(core[-1] + step * n for n in range(1, k + 1))]]


def quotient(a: float, b: float) -> float:
    """As float arithmetic has it."""
    return a / b if b else math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)


def basis(x: float, t: list[float], c: int, k: int) -> float:
    """Both halves of the recursion, and zero where their sum is NaN, level by level."""
    if k == 0:
        return float(t[c] <= x < t[c + 1])
    left = quotient(x - t[c], t[c + k] - t[c]) * basis(x, t, c, k - 1)
    right = quotient(t[c + k + 1] - x, t[c + k + 1] - t[c + 1]) * basis(x, t, c + 1, k - 1)
    total = left + right
    assert not math.isinf(total)
    return 0.0 if math.isnan(total) else total


def rows(t: list[float]) -> list[float]:
    """On every knot, its float32 neighbours, between, and outside."""
    single = np.array(t, dtype=np.float32)
    near = [np.nextafter(single, np.float32(side)) for side in (-np.inf, np.inf)]
    beside = [single[:1] - 0.3, single[-1:] + 0.3, single[:1] - 50, single[-1:] + 50]
    return [float(x) for part in (single, *near, (single[1:] + single[:-1]) / 2, *beside) for x in part]


@pytest.mark.parametrize("name", CORES)
def test_splines_are_zero_where_the_recursion_is_nan(name: str) -> None:
    for k in (1, 2, 3, 5):
        t = knots(name, k)
        spline, x = BSpline(np.array([t]), k, Repeated.FUNCTION), rows(t)
        actual = spline.evaluate(np.array(x)[:, None])[:, :, 0]
        expected = [[basis(u, t, c, k) for c in range(spline.functions)] for u in x]
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14 * np.abs(expected).max(initial=1))


def edges(part: dict[str, Any], row: list[float]) -> Any:
    count = part["coef"].shape[2]
    values = [
        [basis(x, t, c, len(t) - count - 1) for c in range(count)]
        for x, t in zip(row, part["grid"].tolist(), strict=True)
    ]
    own = part["scale_base"] * np.array([silu(x) for x in row])[:, None]
    return part["mask"] * (own + part["scale_sp"] * np.einsum("ioc,ic->io", part["coef"], values))


def checkpoint(pykan: Any, names: list[str]) -> Any:
    """One pykan layer of version 0.2.2 or later, with a source for each name."""
    toy = pykan([len(names), 2], g=5)
    toy.config["round"] = 0
    toy.tensors["act_fun.0.grid"] = np.array([knots(name, 3) for name in names], dtype=np.float32)
    return toy


def run(result: Result, x: np.ndarray) -> np.ndarray:
    """[B, n] -> [B, n, m]: the edges that the exported graph gives."""
    layer = result.manifest.layers[0]
    path = result.directory / layer.edges_file
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([layer.edges_tensor], {layer.node_tensor: x})[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_checkpoint_with_them_exports_as_pykan_computes_it(pykan: Any, tmp_path: Path, dtype: str) -> None:
    toy = checkpoint(pykan, list(CORES))
    result = export(Request(path=toy.write(tmp_path), repository=tmp_path / "models", dtype=dtype))
    x = np.array([rows(row.tolist()) for row in toy.tensors["act_fun.0.grid"]]).T.astype(dtype)
    actual, part = run(result, x), under(toy.tensors, "act_fun.0.")
    expected = np.array([edges(part, row) for row in x.astype(float).tolist()])
    assert np.abs(actual - expected).max() <= (5e-5 if dtype == "float32" else 1e-11) * np.abs(expected).max()
    (note,) = [note for note in result.manifest.notes if "repeat" in note]
    assert "layer 0: knots of source 0, 1, 2, 3, 4, 5, 7 repeat" in note
    assert "decreasing knots jump" in note
    assert "repeated_knots" not in result.manifest.source.options_assumed


def test_a_version_that_returns_nan_is_refused_unless_told(pykan: Any, tmp_path: Path) -> None:
    toy = checkpoint(pykan, ["binary", "binary"])
    del toy.config["round"]
    path = toy.write(tmp_path)
    refused(
        path,
        kind=InvalidKan,
        said="layer 0: knots of source 0, 1 repeat: pykan before 0.2.2",
        hint="--option repeated_knots=zero",
    )
    assert any("repeat" in note for note in exported(path, "repeated_knots=zero").notes)


def test_weights_without_a_config_assume_the_newer_version(pykan: Any, tmp_path: Path) -> None:
    toy = checkpoint(pykan, ["binary", "pair"])
    source = exported(save(tmp_path, toy.tensors)).source
    assert source.options_assumed["repeated_knots"] == "zero"
    assert "0.2.2" in source.alternatives["repeated_knots"]
    refuse(tmp_path, toy.tensors, "repeated_knots=nan", said="returns NaN")
    refuse(tmp_path, toy.tensors, "repeated_knots=maybe", said="'maybe'")


def test_ordinary_knots_ask_nothing_and_take_the_option(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    result = reading(toy.write(tmp_path), "repeated_knots=zero")
    result.options.finish(result.family)
    assert "repeated_knots" not in result.assumed
    assert not any("repeat" in note for note in result.kan.notes)


def test_a_division_of_a_number_by_zero_is_refused(pykan: Any, tmp_path: Path) -> None:
    """Two equal knots with a larger one between: pykan's function is as large as float32 goes."""
    toy = checkpoint(pykan, ["pair"])
    toy.tensors["act_fun.0.grid"][0, 5] = toy.tensors["act_fun.0.grid"][0, 7]
    toy.tensors["act_fun.0.grid"][0, 6] += 0.125
    refused(
        toy.write(tmp_path),
        kind=InvalidKan,
        said=["knots 5 and 7 of source 0 are equal, and a knot between them is larger", "layer 0"],
    )


def test_other_libraries_still_refuse_them(tmp_path: Path) -> None:
    tensors = floats({"base_weight": normal(0, 3, 2), "spline_weight": normal(1, 3, 2, 8)})
    tensors["grid"] = np.array([knots("constant", 3), knots("binary", 3)], dtype=np.float32)
    message = refuse(tmp_path, tensors).message
    assert "knots of source 0 are not strictly increasing" in message
    assert "divides 0 by 0" in message
