"""efficient-kan: stacks, single layers and prefixes, compared with the formula in loops."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kanexport.detection import detect
from kanexport.errors import ExportError, FamilyError, InvalidKan, OpenQuestion
from kanexport.formats import checkpoint
from kanexport.pipeline import Request, Result, export
from tests.support.efficient_kan_state import (
    layer,
    refuse,
    save,
)
from tests.support.small_checkpoints import beside_forward

ACTS = {"silu": lambda u: u / (1 + math.exp(-u)), "tanh": math.tanh, "identity": lambda u: u}


def stack(*widths: int, prefix: str = "layers.", **options: Any) -> dict[str, Any]:
    return {
        f"{prefix}{at}.{key}": value
        for at, (n, m) in enumerate(itertools.pairwise(widths))
        for key, value in layer(n, m, at, **options).items()
    }


def spline(x: float, t: Any, c: int, k: int) -> float:
    if k == 0:
        return 1.0 if t[c] <= x < t[c + 1] else 0.0
    left = (x - t[c]) / (t[c + k] - t[c]) * spline(x, t, c, k - 1)
    return left + (t[c + k + 1] - x) / (t[c + k + 1] - t[c + 1]) * spline(x, t, c + 1, k - 1)


def edges(tensors: dict[str, Any], prefix: str, x: list[float], act: str) -> np.ndarray:
    part = {key.removeprefix(prefix): v.astype(np.float64) for key, v in tensors.items() if key.startswith(prefix)}
    m, n, count = part["spline_weight"].shape
    degree = part["grid"].shape[1] - count - 1
    phi = np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            s = sum(part["spline_weight"][j, i, c] * spline(x[i], part["grid"][i], c, degree) for c in range(count))
            scale = part["spline_scaler"][j, i] if "spline_scaler" in part else 1.0
            phi[i, j] = part["base_weight"][j, i] * ACTS[act](x[i]) + scale * s
    return phi


def check(folder: Path, tensors: dict[str, Any], prefixes: list[str], *options: str, act: str = "silu") -> Result:
    """Export and compare output and every edge with the loops above."""
    result = export(Request(path=save(folder, tensors), repository=folder / "models", options=options))
    x = np.random.default_rng(5).uniform(-3, 3, size=(10, result.manifest.input.shape[1])).astype(np.float32)
    nodes = {"x": x, **_run(result.directory / "model.onnx", {"x": x})}
    rows = [list(map(float, row)) for row in x]
    for at, prefix in enumerate(prefixes):
        info = result.manifest.layers[at]
        actual = _run(result.directory / info.edges_file, {info.node_tensor: nodes[info.node_tensor]})[
            info.edges_tensor
        ]
        expected = np.array([edges(tensors, prefix, row, act) for row in rows])
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() <= 5e-5 * np.abs(expected).max()
        rows = expected.sum(axis=1).tolist()
    assert np.abs(nodes["y"] - np.array(rows)).max() <= 2e-5 * np.abs(rows).max()
    return result


def _run(path: Path, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_a_stack(tmp_path: Path, k: int, uniform: bool) -> None:
    tensors = stack(3, 2, 4, k=k, uniform=uniform)
    result = check(tmp_path, tensors, ["layers.0.", "layers.1."])
    assert result.manifest.source.family == "efficient-kan"
    assert beside_forward(result.manifest.source) == {"base_activation": "silu", "spline_scaler": "used"}
    assert result.manifest.layers[0].bases[0].parameters["uniform"] == str(uniform).lower()


def test_a_lone_layer_and_one_without_scaler(tmp_path: Path) -> None:
    check(tmp_path, layer(3, 2), [""])
    (tmp_path / "bare").mkdir()
    check(tmp_path / "bare", layer(3, 2, scaler=False), [""])


@pytest.mark.parametrize("prefix", ["module.layers.", "model.kan.layers.", "kan_layers.", ""])
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    check(tmp_path, stack(3, 2, 2, prefix=prefix), [f"{prefix}0.", f"{prefix}1."])


def test_layer_ten_comes_after_layer_two(tmp_path: Path) -> None:
    widths = (2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 1)
    tensors = {key: value * (0.1 if "weight" in key else 1) for key, value in stack(*widths).items()}
    assert sorted(tensors)[4].startswith("layers.1.")
    assert sorted(tensors)[8].startswith("layers.10.")
    check(tmp_path, tensors, [f"layers.{at}." for at in range(11)])


def test_options(tmp_path: Path) -> None:
    result = check(tmp_path, stack(2, 2), ["layers.0."], "base_activation=Tanh", act="tanh")
    assert result.manifest.source.options_given == {"base_activation": "Tanh"}
    for option, text in (("base_activation=magic", "magic"), ("input_id=0,1", "input_id")):
        with pytest.raises(ExportError, match=text):
            export(Request(path=tmp_path / "model.safetensors", repository=tmp_path / "other", options=(option,)))


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "anything"])
def test_wrapped_state_dicts(tmp_path: Path, wrapper: str) -> None:
    torch = pytest.importorskip("torch")
    tensors = {key: torch.from_numpy(value) for key, value in stack(3, 2).items()}
    torch.save({"epoch": 5, wrapper: tensors}, tmp_path / "wrapped.pt")
    loaded = checkpoint.load(tmp_path / "wrapped.pt")
    assert sorted(loaded.tensors) == sorted(tensors)
    assert detect.detect(loaded, None)[0].FAMILY == "efficient-kan"


def test_a_tensor_beside_the_state_dict_does_not_hide_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = {key: torch.from_numpy(value) for key, value in stack(3, 2).items()}
    target = io.BytesIO()
    torch.save({"best_loss": torch.tensor(0.5), "state_dict": tensors, "optimizer": {"state": {}}}, target)
    (tmp_path / "run.pt").write_bytes(target.getvalue())
    assert sorted(checkpoint.load(tmp_path / "run.pt").tensors) == sorted(tensors)


def test_tensors_of_other_modules_are_refused_with_advice(tmp_path: Path) -> None:
    tensors = {**stack(3, 2, prefix="kan.layers."), "conv.weight": np.ones((2, 2), np.float32)}
    error = refuse(tmp_path, tensors)
    assert isinstance(error, FamilyError)
    assert "conv.weight" in error.message
    assert "--option prefix=" in error.hint
    check(tmp_path, tensors, ["kan.layers.0."], "prefix=kan.")
    assert "no efficient-kan layer" in refuse(tmp_path, tensors, "prefix=nowhere.").message


def test_two_stacks_are_refused_and_one_can_be_chosen(tmp_path: Path) -> None:
    tensors = {**stack(3, 2, prefix="a.layers."), **stack(2, 2, prefix="b.layers.")}
    assert "2 places: 'a.layers.', 'b.layers.'" in refuse(tmp_path, tensors).message
    check(tmp_path, tensors, ["b.layers.0."], "prefix=b.")


def test_a_gap_between_layers_is_refused(tmp_path: Path) -> None:
    """Sequential(KANLinear, ReLU, KANLinear): the middle has no weights."""
    whole = stack(3, 2, 2, 2, prefix="")
    tensors = {key: value for key, value in whole.items() if not key.startswith("1.")}
    error = refuse(tmp_path, tensors)
    assert isinstance(error, OpenQuestion)
    assert "0.* is followed by 2.*" in error.message
    check(tmp_path, tensors, ["2."], "prefix=2.")


@pytest.mark.parametrize("part", ["base_weight", "spline_weight", "spline_scaler"])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, part: str) -> None:
    tensors = stack(3, 2, 2)
    tensors[f"layers.1.{part}"][1, 0] = np.nan
    error = refuse(tmp_path, tensors)
    assert isinstance(error, InvalidKan)
    assert "layer layers.1:" in error.message
    assert "[0, 1" in error.message


def test_shapes_that_do_not_chain_are_refused(tmp_path: Path) -> None:
    tensors = {f"layers.0.{k}": v for k, v in layer(3, 2).items()} | {
        f"layers.1.{k}": v for k, v in layer(4, 1).items()
    }
    error = refuse(tmp_path, tensors)
    assert "layer 1 has 4 sources, but its input has 2" in error.message


@pytest.mark.parametrize("part", ["base_weight", "spline_scaler", "grid", "spline_weight"])
def test_misshapen_tensors_are_refused(tmp_path: Path, part: str) -> None:
    for change in (lambda a: a.T, lambda a: a[:0], lambda a: a.reshape(-1), lambda a: a.astype(np.complex64)):
        tensors = layer(3, 2)
        tensors[part] = change(tensors[part])
        assert part in refuse(tmp_path, tensors, family="efficient-kan").message or part in ("grid", "spline_weight")


def test_an_unknown_library_is_refused_with_what_is_read(tmp_path: Path) -> None:
    error = refuse(tmp_path, {"kolmogorov_coeffs": np.ones((2, 3, 4, 5, 6), np.float32)})
    assert isinstance(error, FamilyError)
    assert "kolmogorov_coeffs (2, 3, 4, 5, 6)" in error.message
    assert {"efficient-kan", "pykan", "fastkan"} <= set(error.hint.replace(",", "").split())
