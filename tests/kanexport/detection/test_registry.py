"""Tests of `detection/registry.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from kanexport.detection import detect
from kanexport.errors import ExportError, FamilyError, InvalidKan
from kanexport.formats import checkpoint
from kanexport.pipeline import Request, export


def layer(
    n: int, m: int, seed: int = 0, *, k: int = 3, g: int = 4, scaler: bool = True, uniform: bool = False
) -> dict[str, Any]:
    """Tensors of one KANLinear, with knots of their own for every input."""
    rng = np.random.default_rng(seed)
    gaps = np.full((n, g + 2 * k), 0.5) if uniform else rng.uniform(0.2, 0.9, size=(n, g + 2 * k))
    knots = np.cumsum(np.concatenate([np.full((n, 1), -2.5), gaps], axis=1), axis=1)
    tensors = {
        "base_weight": rng.normal(size=(m, n)),
        "spline_weight": rng.normal(size=(m, n, g + k)),
        "grid": knots,
        "spline_scaler": rng.normal(size=(m, n)),
    }
    if not scaler:
        del tensors["spline_scaler"]
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def save(folder: Path, tensors: dict[str, Any]) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(safetensors.numpy.save({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
    return path


def refuse(folder: Path, tensors: dict[str, Any], *options: str, family: str | None = None) -> ExportError:
    with pytest.raises(ExportError) as caught:
        export(Request(path=save(folder, tensors), repository=folder / "no", options=options, family=family))
    assert not (folder / "no").exists()
    return caught.value


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_square_kanx_layer_is_never_read_as_efficient_kan(tmp_path: Path, n: int) -> None:
    tensors = {"0." + key: value for key, value in layer(n, n, scaler=False).items()}
    tensors["0.grid"] = tensors["0.grid"][:, 3:-3]  # G + 1 knots, not extended
    assert detect.detect(checkpoint.load(save(tmp_path, tensors)), None)[0].FAMILY == "kanx"
    error = refuse(tmp_path, tensors, family="efficient-kan")
    assert isinstance(error, InvalidKan)
    assert "KANX" in error.hint


def test_tensors_of_two_families_ask_for_one(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    toy.tensors |= layer(2, 2)
    with pytest.raises(FamilyError, match=r"fit efficient-kan \(.*\) and pykan \(") as caught:
        detect.detect(checkpoint.load(toy.write(tmp_path)), None)
    assert "--family" in caught.value.hint
