"""Tests of `readers/common/symbolic.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kanexport.errors import ExportError, UnknownFunction
from kanexport.pipeline import Request, export


def refuse(tmp_path: Path, path: Path, *options: str, family: str | None = None) -> ExportError:
    """The error of an export that must fail, having written nothing."""
    models = tmp_path / "models"
    with pytest.raises(ExportError) as caught:
        export(Request(path=path, repository=models, options=options, family=family))
    assert not models.exists()
    return caught.value


def test_a_symbolic_affine_that_is_not_finite_is_named(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 3])
    toy.symbolic(0, 1, 2, "sin", (np.nan, 0, 1, 0))
    error = refuse(tmp_path, toy.write(tmp_path))
    assert "layer 0" in error.message
    assert "(1,2)" in error.message


@pytest.mark.parametrize("name", ["sinx", "x']=1;import os#", "anonymous", "", "\x1b[31m"])
def test_an_unknown_symbolic_function_names_its_edge(pykan: Any, tmp_path: Path, name: str) -> None:
    toy = pykan([2, 3, 1])
    toy.symbolic(1, 2, 0, name, (1, 0, 1, 0))
    error = refuse(tmp_path, toy.write(tmp_path))
    assert isinstance(error, UnknownFunction)
    assert "(1,2,0)" in error.message
    assert repr(name) in error.message
    assert "gaussian" in error.hint


def test_a_symbolic_name_that_is_an_object_names_its_edge(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([1, 1])
    toy.symbolic(0, 0, 0, "OBJECT", (1, 0, 1, 0))
    config = yaml.safe_dump(toy.config).replace("OBJECT", "!!python/object/apply:os.system [x]")
    error = refuse(tmp_path, toy.write(tmp_path, config))
    assert isinstance(error, UnknownFunction)
    assert "(0,0,0)" in error.message


@pytest.mark.parametrize("names", [[["0"]], [["0", "0"], ["0"]], "0", [["0", "0", "0"]] * 2, {"a": 1}])
def test_symbolic_names_must_fit_the_layer(pykan: Any, tmp_path: Path, names: Any) -> None:
    toy = pykan([2, 2])
    toy.config["symbolic.funs_name.0"] = names
    assert "symbolic.funs_name.0" in refuse(tmp_path, toy.write(tmp_path)).message


def test_symbolic_enabled_must_be_a_truth_value(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    toy.config["symbolic_enabled"] = "yes please"
    assert "symbolic_enabled" in refuse(tmp_path, toy.write(tmp_path)).message
