"""Tests of `cli/render.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport import options
from kanexport.batch import run as sweep
from kanexport.cli import export_command, render
from kanexport.pipeline import Request


def test_what_rounding_makes_large_is_starred(tmp_path: Path, pykan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pykan([2, 1]).write(tmp_path)
    report = sweep.document(sweep.sweep(Request(path=tmp_path, repository=tmp_path / "models")))
    render.folder(report)
    assert "*" not in capsys.readouterr().out
    report["files"][0]["edges_max_rel"] = 6e-5
    render.folder(report)
    out = capsys.readouterr().out
    assert "6.0e-05*" in out
    assert "* tolerance relaxed" in out


Golden = Callable[[str], tuple[Path, tuple[str, ...]]]


def test_a_table_on_stdout_for_people(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # a narrower table wraps the names of regions
    path, _ = golden("pykan-mult-affine")
    assert export_command.main([str(path), "--repository", str(tmp_path / "models"), "--name", "m"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "m version 1: pykan, 2 → 3 → 1" in out
    for word in ("in grid", "extended grid", "on knots", "out of grid", "NaN, infinity", "written to"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "count"), [("", 0), ("or relu, tanh", 2), (options._listed("abcdefghijklmno"), 15), ("one; another", 2)]
)
def test_known_alternatives_are_counted(words: str, count: int) -> None:
    assert render._count(words) == count


def test_regions_have_names_and_what_was_not_compared_a_dash(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("COLUMNS", "120")
    from kanexport.bundle.publish import Target
    from kanexport.torch_export.convert import convert
    from tests.support.torch_modules import KANLinear

    torch.manual_seed(0)
    target = Target(repository=tmp_path, name="m")
    render.result(convert(torch.nn.Sequential(KANLinear(4, 3)), np.ones((8, 4)), target, options={}))
    lines = {line[:15].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["batch of 33"].split()[-3:] == ["-", "-", "-"]
    assert lines["out of grid"].split()[4:6] == ["-", "-"]
    assert "-" not in lines["example rows"].replace("e-", "").split()
