"""Fuzz test with a few thousand damaged checkpoints of all families: export or typed error, and no other exception."""

from __future__ import annotations

import collections
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "fuzz_checkpoints.py"
COUNT = 3000


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_checkpoints", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_checkpoints"] = module
    spec.loader.exec_module(module)
    return module


def test_damaged_checkpoints_end_in_a_typed_error_or_are_exported(fuzzer: ModuleType, tmp_path: Path) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    for outcome in fuzzer.fuzz(random.Random(20), tmp_path, COUNT, seconds=120, verify_every=30):
        if isinstance(outcome, fuzzer.Finding):
            pytest.fail(f"mutation {outcome.number} of {outcome.seed.name}, {outcome.what}:\n{outcome.text}")
        outcomes[outcome] += 1
    # The mutations reach every part: some change nothing that matters, some are caught late.
    assert outcomes["lowered"] > COUNT / 20
    assert outcomes["proved"] > 3
    for kind in ("CheckpointError", "InvalidKan", "OptionError", "FamilyError"):
        assert outcomes[kind] > COUNT / 40, kind
    assert outcomes["UnsafeCheckpoint"] > 5  # what lies beside the weights stays inert, and is no reason to refuse


def test_every_family_is_fuzzed(fuzzer: ModuleType, tmp_path: Path) -> None:
    assert {seed.family for seed in fuzzer.seeds(tmp_path)} == set(fuzzer.registry.readers())
