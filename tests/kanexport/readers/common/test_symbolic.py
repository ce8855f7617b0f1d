"""Tests of `readers/common/symbolic.py`."""

from pathlib import Path
from typing import Any

import yaml

from kanexport.errors import UnknownFunction
from tests.support.small_checkpoints import refused


def test_an_unknown_symbolic_function_names_its_edge(pykan: Any, tmp_path: Path) -> None:
    for name in ("sinx", "x']=1;import os#", "anonymous", "", "\x1b[31m"):
        toy = pykan([2, 3, 1])
        toy.symbolic(1, 2, 0, name, (1, 0, 1, 0))
        error = refused(toy.write(tmp_path), kind=UnknownFunction, said="(1,2,0)")
        assert repr(name) in error.message
        assert "gaussian" in error.hint


def test_a_symbolic_name_that_is_an_object_names_its_edge(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([1, 1])
    toy.symbolic(0, 0, 0, "OBJECT", (1, 0, 1, 0))
    config = yaml.safe_dump(toy.config).replace("OBJECT", "!!python/object/apply:os.system [x]")
    refused(toy.write(tmp_path, config), kind=UnknownFunction, said="(0,0,0)")


def test_symbolic_settings_must_fit_the_layer(pykan: Any, tmp_path: Path) -> None:
    names: list[Any] = [[["0"]], [["0", "0"], ["0"]], "0", [["0", "0", "0"]] * 2, {"a": 1}]
    for key, value in (*(("symbolic.funs_name.0", name) for name in names), ("symbolic_enabled", "yes please")):
        toy = pykan([2, 2])
        toy.config[key] = value
        assert key in refused(toy.write(tmp_path)).message
