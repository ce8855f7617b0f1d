"""Tests of `readers/common/layer_tensors.py`."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from kanexport.detection import detect, registry
from kanexport.errors import ExportError, FamilyError, InvalidKan, OpenQuestion
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import Kan
from kanexport.options import KnownFacts, Options
from kanexport.verify import float64_reference
from tools import fuzz_checkpoints as fuzzer

FAMILIES = registry.readers()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, fuzzer.Seed]:
    """One checkpoint of every family: the smallest golden one, or one that is made up."""
    result = fuzzer.seeds(tmp_path_factory.mktemp("seeds"))
    result.sort(key=lambda seed: -sum(map(len, seed.files.values())))
    return {seed.family: seed for seed in result}


def read(seed: fuzzer.Seed, loaded: Checkpoint) -> Kan:
    return detect.read(FAMILIES[seed.family], loaded, Options(KnownFacts.parse(seed.options)))


def attempt(seed: fuzzer.Seed, loaded: Checkpoint) -> Kan | ExportError:
    """The network, or the text of its rejection."""
    try:
        return read(seed, loaded)
    except ExportError as error:
        if not error.message:
            raise
        return error


def rows(kan: Kan) -> np.ndarray:
    return np.linspace(-1, 1, 3)[:, None] * np.ones(kan.n_inputs)


def spoilt(seed: fuzzer.Seed, key: str, value: Any) -> Checkpoint:
    """The checkpoint with another tensor in a place, or none."""
    tensors = {**seed.loaded.tensors, key: value}
    return dataclasses.replace(seed.loaded, tensors={k: v for k, v in tensors.items() if v is not None})


# These describe the lack in another way, such as "layer 0 has no coef [n, m, G+k]" or "found 0 FC_KAN models".
NAMELESS = {"pykan", "keras-efficient-kan", "sinekan", "fourierkan", "gr-kan", "inkan", "fc-kan", "trukan", "by-shape"}


# These name the place of a number that is not finite by its edge or its source, without the layer.
UNPLACED = {"torchkan", "keras-efficient-kan", "fourierkan", "gr-kan", "jacobikan", "fc-kan", "dropkan", "kal-net"}


def test_any_tensor_may_be_missing_or_of_another_shape(seeds: dict[str, fuzzer.Seed]) -> None:
    """A reader does without (an optional one), or rejects it with the name of a tensor."""
    nameless, accepting = set(), set()
    for family in FAMILIES:
        seed, refusals = seeds[family], 0
        for key, value in seed.loaded.tensors.items():
            for other in (None, value[None], value[..., :0] if value.ndim else value):
                outcome = attempt(seed, spoilt(seed, key, other))
                if not isinstance(outcome, ExportError):
                    continue
                refusals += 1
                assert isinstance(outcome, InvalidKan | FamilyError | OpenQuestion), (family, key)
                if not any(name in outcome.message for name in seed.loaded.tensors):
                    nameless.add(family)
        if refusals < 2:
            accepting.add(family)
    assert not accepting
    assert nameless <= NAMELESS


def test_a_weight_that_is_not_finite_is_refused(seeds: dict[str, fuzzer.Seed]) -> None:
    """At any place, values that are not finite do not reach the layers."""
    accepting = []
    for family, number in itertools.product(FAMILIES, (np.nan, np.inf)):
        seed, refusals = seeds[family], 0
        for key, value in seed.loaded.tensors.items():
            if value.dtype.kind != "f" or not value.size:
                continue
            other = value.copy()
            other.reshape(-1)[value.size // 2] = number
            outcome = attempt(seed, spoilt(seed, key, other))
            if isinstance(outcome, ExportError):
                refusals += 1
                assert family in UNPLACED or key in outcome.message or "layer" in outcome.message, outcome.message
            else:  # the tensor did not matter
                expected = float64_reference.evaluate(read(seed, seed.loaded), x := rows(outcome)).y
                np.testing.assert_array_equal(float64_reference.evaluate(outcome, x).y, expected, err_msg=key)
        if not refusals:
            accepting.append((family, number))
    assert not accepting
