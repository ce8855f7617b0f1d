"""Tests of `verify/prover.py`."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kanexport.errors import VerificationFailed
from kanexport.ir import clamping
from kanexport.ir.model import Kan
from kanexport.ir.steps import Clip, Select
from kanexport.lowering import lower
from kanexport.verify import prover
from tests.support.command_line import checkpoint
from tests.support.small_checkpoints import read


def network(folder: Path) -> Kan:
    return read(checkpoint(folder / "m.safetensors", (3, 4, 2)))[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_proof_counts_what_lies_beyond_and_notices_another_grid(tmp_path: Path, dtype: str) -> None:
    kan = network(tmp_path)
    plain, given_ = lower.lower(kan, dtype), clamping.clamped(kan)
    first = given_.layers[0]
    beyond = prover.verify_clamping(first, 3, plain, lower.lower(given_, dtype), dtype)
    assert beyond > 10
    (clip,) = first.pre_steps
    assert isinstance(clip, Clip)
    moved = dataclasses.replace(first, pre_steps=(Clip(clip.low, clip.high + 0.01),))
    other = lower.lower(dataclasses.replace(given_, layers=(moved, *given_.layers[1:])), dtype)
    with pytest.raises(VerificationFailed, match="clamped graph gives another"):
        prover.verify_clamping(first, 3, plain, other, dtype)
    edges = dataclasses.replace(lower.lower(given_, dtype), edges=other.edges)
    with pytest.raises(VerificationFailed, match="gives another edges for row"):
        prover.verify_clamping(first, 3, plain, edges, dtype)


def test_an_input_that_is_several_sources_is_kept_on_the_grids_of_all(tmp_path: Path) -> None:
    kan = network(tmp_path)
    first = kan.layers[0]
    term = max(first.terms, key=lambda item: item.functions)
    shifted = dataclasses.replace(term.basis, extended=term.basis.extended + np.array([[0.0], [0.0], [0.5]]))
    terms = tuple(dataclasses.replace(item, basis=shifted) if item is term else item for item in first.terms)
    layer = dataclasses.replace(first, terms=terms, pre_steps=(Select((1, 0, 1)),))
    two = Kan(2, (layer, *kan.layers[1:]))
    low, high = clamping.limits(layer)
    assert low.tolist() == pytest.approx([-0.5, -1, -0.5], abs=1e-6)
    assert high.tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    given_ = clamping.clamped(two)
    assert prover.verify_clamping(
        given_.layers[0], 2, lower.lower(two, "float32"), lower.lower(given_, "float32"), "float32"
    )
