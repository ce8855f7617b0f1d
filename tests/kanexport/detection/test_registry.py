"""Tests of `detection/registry.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kanexport.detection import detect
from kanexport.errors import FamilyError, InvalidKan
from kanexport.formats import checkpoint
from tests.support.efficient_kan_state import layer, refuse, save


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_square_kanx_layer_is_never_read_as_efficient_kan(tmp_path: Path, n: int) -> None:
    tensors = {"0." + key: value for key, value in layer(n, n, scaler=False).items()}
    tensors["0.grid"] = tensors["0.grid"][:, 3:-3]  # G + 1 knots, not extended
    assert detect.detect(checkpoint.load(save(tmp_path, tensors)), None)[0].FAMILY == "kanx"
    error = refuse(tmp_path, tensors, family="efficient-kan")
    assert isinstance(error, InvalidKan)
    assert (error.code, error.hint) == ("grid-wrong-shape", "pass --family kanx for a grid of length G + 1")


def test_tensors_of_two_families_ask_for_one(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    toy.tensors |= layer(2, 2)
    with pytest.raises(FamilyError, match=r"fit several libraries: efficient-kan \(.*\) and pykan \(") as caught:
        detect.detect(checkpoint.load(toy.write(tmp_path)), None)
    assert "--family" in caught.value.hint
