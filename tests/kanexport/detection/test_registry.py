"""Tests of `detection/registry.py`."""

import re
from pathlib import Path
from typing import Any

from kanexport.errors import FamilyError, InvalidKan
from tests.support.small_checkpoints import layer, reading, refuse, refused, save


def test_a_square_kanx_layer_is_never_read_as_efficient_kan(tmp_path: Path) -> None:
    for n in (2, 3, 4):
        tensors = {"0." + key: value for key, value in layer(n, n, scaler=False).items()}
        tensors["0.grid"] = tensors["0.grid"][:, 3:-3]  # G + 1 knots, not extended
        assert reading(save(tmp_path, tensors)).family == "kanx"
        error = refuse(tmp_path, tensors, family="efficient-kan", kind=InvalidKan)
        assert (error.code, error.hint) == ("grid-wrong-shape", "pass --family kanx for a grid of length G + 1")


def test_tensors_of_two_families_ask_for_one(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    toy.tensors |= layer(2, 2)
    error = refused(toy.write(tmp_path), kind=FamilyError, hint="--family")
    assert re.search(r"fit several libraries: efficient-kan \(.*\) and pykan \(", error.message)
