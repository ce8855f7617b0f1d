"""Tests of `quantization/plan.py`."""

from pathlib import Path

import pytest

from kanexport.errors import VerificationFailed
from kanexport.quantization.options import QuantizationOptions
from kanexport.shared.sections import FLOAT32, FP16_WEIGHTS, INT8, INT8_WEIGHTS
from tests.support.golden_cases import exported
from tests.support.tiers import spread

DIGITS = "efficient-kan-digits"


@spread("name", ["sinekan-digits", "chebykan-digits-layernorm", "gr-kan-breast-cancer"], 1)
def test_other_families_store_bytes_where_they_have_no_sums_of_them(tmp_path: Path, name: str) -> None:
    result = exported(name, tmp_path, quantization=QuantizationOptions("int8", max_error=0.2)).manifest.approximation
    assert {branch.form for branch in result.branches} <= {INT8_WEIGHTS, FP16_WEIGHTS, FLOAT32}
    assert result.error <= 0.2


def test_a_branch_that_takes_more_than_its_share_stays_as_it_is(tmp_path: Path) -> None:
    bound = 5e-3
    quantization = QuantizationOptions("int8", max_error=bound)
    result = exported(DIGITS, tmp_path, quantization=quantization).manifest.approximation
    kept = [branch for branch in result.branches if branch.form in (FP16_WEIGHTS, FLOAT32)]
    assert kept
    assert any(branch.form == INT8 for branch in result.branches)
    assert all(branch.first > bound / 2 >= branch.error for branch in kept)
    assert any("since quantizing only this branch" in note for note in result.notes())


def test_too_large_an_error_and_nothing_to_quantize_are_refused(tmp_path: Path) -> None:
    text = r"no branch can be quantized .* the worst branch is \w+ of layer \d"
    with pytest.raises(VerificationFailed, match=text) as result:
        exported(DIGITS, tmp_path, quantization=QuantizationOptions("int8", max_error=1e-5))
    assert "set a larger --max-error" in result.value.hint
    with pytest.raises(VerificationFailed, match="nothing to quantize"):
        exported("wav-kan-dog-breast-cancer", tmp_path, quantization=QuantizationOptions("int8"))
    assert not list(tmp_path.rglob("manifest.json"))
