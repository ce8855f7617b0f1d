"""Tests of `quantization/plan.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kanexport.contract.sections import FLOAT32, FP16_WEIGHTS, INT8, INT8_WEIGHTS
from kanexport.errors import VerificationFailed
from kanexport.pipeline import Request, export
from kanexport.quantization.options import QuantizationOptions
from tests.support.golden_cases import cases

DIGITS, WINE = "efficient-kan-digits", "efficient-kan-wine-update-grid"


OTHERS = ("sinekan-digits", "chebykan-digits-layernorm", "gr-kan-breast-cancer")


def case(name: str) -> Any:
    return next(result for result in cases() if result.name == name)


def exported(folder: Path, name: str, **more: Any) -> Any:
    result = case(name)
    return export(
        Request(path=result.path, repository=folder, name=more.pop("called", "m"), options=result.options, **more)
    )


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_store_bytes_where_they_have_no_sums_of_them(tmp_path: Path, name: str) -> None:
    result = exported(tmp_path, name, quantization=QuantizationOptions("int8", max_error=0.2)).manifest.approximation
    assert {branch.form for branch in result.branches} <= {INT8_WEIGHTS, FP16_WEIGHTS, FLOAT32}
    assert result.error <= 0.2


def test_a_network_without_such_a_branch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="nothing to quantize"):
        exported(tmp_path, "wav-kan-dog-breast-cancer", quantization=QuantizationOptions("int8"))


def test_a_branch_that_takes_more_than_its_share_stays_as_it_is(tmp_path: Path) -> None:
    bound = 5e-3
    result = exported(
        tmp_path, DIGITS, quantization=QuantizationOptions("int8", max_error=bound)
    ).manifest.approximation
    kept = [branch for branch in result.branches if branch.form in (FP16_WEIGHTS, FLOAT32)]
    assert kept
    assert any(branch.form == INT8 for branch in result.branches)
    assert all(branch.first > bound / 2 >= branch.error for branch in kept)
    assert any("since quantizing only this branch" in note for note in result.notes())


def test_too_large_an_error_is_refused_and_names_the_worst_branch(tmp_path: Path) -> None:
    with pytest.raises(
        VerificationFailed, match=r"no branch can be quantized .* the worst branch is \w+ of layer \d"
    ) as result:
        exported(tmp_path, DIGITS, quantization=QuantizationOptions("int8", max_error=1e-5))
    assert "set a larger --max-error" in result.value.hint
    assert not list(tmp_path.rglob("manifest.json"))
