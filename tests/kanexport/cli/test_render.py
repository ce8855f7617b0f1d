"""Tests of `cli/render.py`."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kanexport.batch import run as sweep
from kanexport.cli import render
from kanexport.pipeline import Request
from kanexport.shared.manifest import HYBRID
from tests.support.golden_cases import exported


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


def test_regions_have_names_and_what_was_not_compared_a_dash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a module: rows of its layers, whose outputs were not compared, and a batch without edges."""
    monkeypatch.setenv("COLUMNS", "120")
    result = exported("pykan-hello-adapted", tmp_path)
    manifest = result.manifest
    inside = manifest.verification.zones[0]
    no_outputs = {"worst_output": "", "outputs_max_rel": 0.0, "outputs_max_abs": 0.0}
    no_edges = {"worst_edge": "", "edges_max_rel": 0.0, "edges_max_abs": 0.0}
    far = dataclasses.replace(inside, name="far", **no_outputs)
    batch = dataclasses.replace(inside, name="batch of 33", **no_edges)
    zones = *manifest.verification.zones, far, batch
    verification = dataclasses.replace(manifest.verification, zones=zones)
    source = dataclasses.replace(manifest.source, family=HYBRID)
    render.result(
        dataclasses.replace(result, manifest=dataclasses.replace(manifest, verification=verification, source=source))
    )
    lines = {line[:15].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert {"extended grid", "on knots", "NaN, infinity"} <= set(lines)
    assert lines["batch of 33"].split()[-3:] == ["-", "-", "-"]
    assert lines["out of grid"].split()[4:6] == ["-", "-"]
    assert "-" not in lines["example rows"].replace("e-", "").split()
