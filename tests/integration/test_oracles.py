"""Oracles of tools/: damaged checkpoints, readings of the same tensors as another library, random modules.

The exporter exports none of them as another network. What it does not export ends in a typed error.
"""

import collections
import importlib
import random
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.tiers import full
from tools import fuzz_checkpoints as fuzzer

pytestmark = full("rare")

ORACLES = Path(__file__).parents[2] / "tools" / "oracle"
COUNT, FOREVER = 1200, 1e9  # damaged checkpoints, and seconds
EVERY, EVERY_WITH_OUTPUTS = 37, 401  # of the rivals
MODULES = 4


def oracle(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ORACLES))  # an oracle imports those beside it
        return importlib.import_module(name)


def test_damaged_checkpoints_end_in_a_typed_error_or_are_exported(tmp_path: Path) -> None:
    assert {seed.family for seed in fuzzer.seeds(tmp_path)} == set(fuzzer.registry.readers())
    outcomes: collections.Counter[str] = collections.Counter()
    for outcome in fuzzer.fuzz(random.Random(20), tmp_path, COUNT, seconds=FOREVER, verify_every=30):
        if isinstance(outcome, fuzzer.Finding):
            pytest.fail(f"mutation {outcome.number} of {outcome.seed.name}, {outcome.what}:\n{outcome.text}")
        outcomes[outcome] += 1
    # The mutations reach every part: some change nothing that matters, some are caught late.
    assert outcomes["lowered"] > COUNT / 20
    assert outcomes["proved"] > 3
    for kind in ("CheckpointError", "InvalidKan", "OptionError", "FamilyError"):
        assert outcomes[kind] > COUNT / 40, kind
    assert (
        outcomes["UnsafeCheckpoint"] > COUNT / 600
    )  # what lies beside the weights stays inert, and is no reason to refuse


def test_a_rival_without_outputs_is_refused_or_its_question_listed(tmp_path: Path) -> None:
    trial = oracle("generated_rivals").run(tmp_path, every=EVERY)
    assert not trial.failures
    assert trial.counts["rivals"] > 30
    assert trial.counts["without outputs, mutated: listed"] > 15
    assert trial.counts["without outputs, mutated: refused"] > 3


def test_a_rival_with_outputs_is_decided_or_refused(tmp_path: Path) -> None:
    trial = oracle("generated_rivals").run(tmp_path, first=5, every=EVERY_WITH_OUTPUTS, outputs=True)
    assert not trial.failures
    assert trial.counts["with outputs: decided rightly"] > 1


def test_random_modules_are_read_as_what_they_are() -> None:
    pytest.importorskip("torch")
    modules = oracle("random_modules")
    tally = modules.Tally()
    for number in range(MODULES):
        modules.one(number, modules.KANS, tally, export=False)
    assert not tally.wrong
    assert not tally.refused
    assert sum(tally.recognised.values()) > MODULES
