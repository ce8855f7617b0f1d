"""Tests of `readers/common/module_kinds.py`."""

from pathlib import Path

import numpy as np
import pytest

from kanexport.errors import ExportError, OpenQuestion
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import normal, read, refuse, stacked

SQUARE = [{"cheby_coeffs": 0.3 * normal(at, 4, 4, 3).astype(np.float32)} for at in (0, 1)]
QUESTIONS = {
    "norm": ({"n0.weight": np.ones(4), "n0.bias": np.ones(4)}, ("layernorm", "affine", "rmsnorm", "groupnorm:2")),
    "vector": ({"n0.gamma": np.ones(4)}, ("rmsnorm", "layernorm", "prelu", "scale", "swish")),
    "scalar": ({"n0.beta": np.ones(1)}, ("prelu", "swish", "scale")),
}


@pytest.mark.parametrize("key", QUESTIONS)
def test_a_module_whose_name_says_nothing_must_be_told(tmp_path: Path, key: str) -> None:
    extra, values = QUESTIONS[key]
    tensors = stacked(SQUARE, "kan") | {k: v.astype(np.float32) for k, v in extra.items()}
    error = refuse(tmp_path, tensors, kind=OpenQuestion)
    assert (error.key, error.among) == (key, values)
    path, result = tmp_path / "model.safetensors", set()
    x = normal(8, 5, 4)
    for value in values:
        result.add(float64_reference.evaluate(read(path, f"{key}={value}")[0], x).y.tobytes())
    assert len(result) >= len(values) - 1  # of ones, a PReLU and a scale do the same
    with pytest.raises(ExportError, match=f"option {key} is"):
        read(path, f"{key}=else")


def test_a_batch_norm_without_statistics_is_refused(tmp_path: Path) -> None:
    tensors = stacked(SQUARE, "kan") | {"bn0.weight": np.ones(4, np.float32), "bn0.bias": np.ones(4, np.float32)}
    refuse(tmp_path, tensors, kind=OpenQuestion)
    refuse(tmp_path, tensors, "norm=batchnorm", said="depend on the other rows of the batch")
