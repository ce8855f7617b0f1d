"""Tests of `tables/output_results.py`."""

from pathlib import Path

from tests.support.command_line import wrong_refusals


def test_a_bad_output_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    cases = {
        f"infer tiny --output {tmp_path}/y.txt": ".npz or .npy",
        f"infer tiny --output {tmp_path}/nowhere/y.npz": "nowhere does not exist",
    }
    assert wrong_refusals(cases, "--input", "none.npy", "--url", "127.0.0.1:1") == []
