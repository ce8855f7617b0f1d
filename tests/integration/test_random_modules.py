"""Random modules of the oracle: the exporter reads none as another module."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")

ORACLE = Path(__file__).parents[2] / "tools" / "oracle" / "random_modules.py"


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("random_modules", ORACLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_random_modules_are_read_as_what_they_are(oracle: ModuleType) -> None:
    tally = oracle.Tally()
    for number in range(8):
        oracle.one(number, oracle.KANS, tally, export=False)
    assert not tally.wrong
    assert not tally.refused
    assert sum(tally.recognised.values()) > 8


def test_a_wrong_answer_would_be_seen(oracle: ModuleType) -> None:
    expected = np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, 0.0]])
    same = [expected]
    assert not oracle.difference(expected, expected, lambda: same)
    for at, value in (((0, 1), 2.001), ((1, 0), 1.0), ((2, 0), np.nan), ((2, 0), -np.inf)):
        result = expected.copy()
        result[at] = value
        assert oracle.difference(result, expected, lambda: same)
