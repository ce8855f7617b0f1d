"""Generated layers with alternative interpretations: the exporter exports none silently as another layer."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ORACLE = Path(__file__).parents[2] / "tools" / "oracle"
EVERY, EVERY_WITH_OUTPUTS = 11, 251


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    sys.path.insert(0, str(ORACLE))
    try:
        spec = importlib.util.spec_from_file_location("generated_rivals", ORACLE / "generated_rivals.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ORACLE))
    return module


def test_without_outputs_each_is_refused_or_its_question_listed(oracle: ModuleType, tmp_path: Path) -> None:
    trial = oracle.run(tmp_path, every=EVERY)
    assert not trial.failures
    assert trial.counts["rivals"] > 100
    assert trial.counts["without outputs, mutated: listed"] > 50
    assert trial.counts["without outputs, mutated: refused"] > 5


def test_with_outputs_each_is_decided_or_refused(oracle: ModuleType, tmp_path: Path) -> None:
    trial = oracle.run(tmp_path, first=5, every=EVERY_WITH_OUTPUTS, outputs=True)
    assert not trial.failures
    assert trial.counts["with outputs: decided rightly"] > 1


def test_a_wrong_export_would_be_seen(oracle: ModuleType, tmp_path: Path) -> None:
    trial = oracle.Trial(tmp_path, collections.Counter(), [])
    rival = next(item for item in oracle.rivals(0) if item.own is not None)

    def other(x: Any) -> Any:
        return rival.own(x) + 0.01

    changed = dataclasses.replace(rival, own=other, forward=other)
    trial.without_outputs(changed)
    assert "is not the library's own" in trial.failures[0]
    expected = np.array([[1.0], [np.inf]])
    assert oracle.apart(expected, expected) == 0
    assert oracle.apart(np.array([[1.0], [2.0]]), expected) == np.inf
