"""Tests of `readers/common/module_kinds.py`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import ExportError, OpenQuestion
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import read, refuse, stacked

RNG = np.random.default_rng(8)


Array = np.ndarray[Any, np.dtype[np.float64]]


def cheby(*widths: int) -> list[dict[str, Any]]:
    """ChebyKAN layers, small enough that none saturates the next one's tanh."""
    sides = itertools.pairwise(widths)
    return [{"cheby_coeffs": RNG.normal(0, 0.3, size=(*side, 3)).astype(np.float32)} for side in sides]


def forward(layer: dict[str, Any], x: Array) -> Array:
    coef = layer["cheby_coeffs"].astype(np.float64)
    return np.asarray(np.einsum("bid,iod->bo", np.cos(np.arccos(np.tanh(x))[:, :, None] * np.arange(3)), coef))


def even(x: Array) -> Array:
    """A LayerNorm without weights."""
    return np.asarray((x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5))


SQUARE = cheby(4, 4, 4)


A, B = ((lambda x, layer=layer: forward(layer, x)) for layer in SQUARE)


NORM = {f"ln0.{key}": RNG.normal(size=4).astype(np.float32) for key in ("weight", "bias")}


SCALE, BIAS = (NORM[key].astype(np.float64) for key in ("ln0.weight", "ln0.bias"))


def norm(x: Array) -> Array:
    return even(x) * SCALE + BIAS


QUESTIONS = {
    "norm": ({"n1.weight": np.ones(4), "n1.bias": np.ones(4)}, ("layernorm", "affine", "rmsnorm", "groupnorm:2")),
    "vector": ({"n1.gamma": np.ones(4)}, ("rmsnorm", "layernorm", "prelu", "scale", "swish")),
    "scalar": ({"n1.beta": np.ones(1)}, ("prelu", "swish", "scale")),
}


@pytest.mark.parametrize("key", QUESTIONS)
def test_a_module_whose_name_says_nothing_must_be_told(tmp_path: Path, key: str) -> None:
    extra, values = QUESTIONS[key]
    tensors = {f"kan{at}.{k}": v for at, layer in enumerate(SQUARE, 1) for k, v in layer.items()}
    tensors |= {k: v.astype(np.float32) for k, v in extra.items()}
    error = refuse(tmp_path, tensors)
    assert isinstance(error, OpenQuestion)
    assert (error.key, error.among) == (key, values)
    path, result = tmp_path / "model.safetensors", set()
    x = RNG.normal(size=(5, 4))
    for value in values:
        result.add(float64_reference.evaluate(read(path, f"{key}={value}")[0], x).y.tobytes())
    assert len(result) >= len(values) - 1  # of ones, a PReLU and a scale do the same
    with pytest.raises(ExportError, match=f"option {key} is"):
        read(path, f"{key}=else")


def test_a_batch_norm_without_statistics_is_refused(tmp_path: Path) -> None:
    tensors = stacked(SQUARE, "kan") | {"bn0.weight": np.ones(4, np.float32), "bn0.bias": np.ones(4, np.float32)}
    assert isinstance(refuse(tmp_path, tensors), OpenQuestion)
    assert "depend on the other rows of the batch" in refuse(tmp_path, tensors, "norm=batchnorm").message
