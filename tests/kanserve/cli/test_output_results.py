"""Tests of `cli/output_results.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import kanserve


@pytest.mark.parametrize(("target", "says"), [("y.txt", ".npz or .npy"), ("nowhere/y.npz", "nowhere does not exist")])
def test_a_bad_output_is_refused_before_anything_is_asked(target: str, says: str, tmp_path: Path) -> None:
    done = kanserve("infer", "tiny", "--input", "none.npy", "--output", tmp_path / target, "--url", "127.0.0.1:1")
    assert done.returncode == 2
    assert says in done.stderr
