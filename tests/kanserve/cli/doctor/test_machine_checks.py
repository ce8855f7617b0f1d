"""Tests of `cli/doctor/machine_checks.py`."""

import json
from pathlib import Path

import pytest

from kanserve.cli.doctor import machine_checks
from kanserve.cli.doctor.check_results import Level
from tests.kanserve.cli.doctor.conftest import FREE, check, told
from tests.support.command_line import kanserve, program


def test_machines(models: Path) -> None:
    for flags, level, text in (
        (("--device", "cuda"), Level.PROBLEM, "runtime: device 'cuda' is not available"),
        (("--threads", "1024"), Level.WARNING, "processors: threads = 1024, but"),
        (("--workers", "256"), Level.WARNING, "processors: workers = 256, but"),
    ):
        code, result = check(models, *FREE, *flags)
        assert code == (2 if level is Level.PROBLEM else 0)
        assert any(line.startswith(text) for line in told(result, level)), result
    assert kanserve("serve", models, *FREE, "--gprc-port", "1", "--check").returncode == 2


def test_files_that_may_be_open(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks.resource, "getrlimit", lambda kind: (200, 200))
    code, result = check(models, *FREE)
    (line,) = told(result, Level.WARNING)
    assert (code, line) == (0, "open files: limit 200, but max_connections = 1000 needs 1064")


def test_installed_packages_are_compared_with_the_required_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"onnxruntime": "1.2.0", "onnxruntime-gpu": "", "h2corn": "3.0.1", "orjson": ""}
    real = machine_checks._version
    monkeypatch.setattr(machine_checks, "_version", lambda name: versions.get(name, real(name)))
    lines = [f"{finding.level}: {finding.text}" for finding in machine_checks.installation()]
    assert "warning: onnxruntime 1.2.0, expected >=1.20" in lines
    assert "warning: h2corn 3.0.1, expected <3,>=2.0" in lines
    assert "problem: orjson is not installed" in lines
    versions = {"onnxruntime": "", "onnxruntime-gpu": "1.24.0"}
    assert all(finding.level is Level.OK for finding in machine_checks.installation())


def test_a_clock_from_before_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks.time, "time", lambda: 10**9)
    assert machine_checks.clock().level is Level.PROBLEM


def test_telemetry_that_the_environment_would_have(models: Path) -> None:
    done = program("serve", models, *FREE, "--check", "--json", ORT_DISABLE_TELEMETRY="0")
    (line,) = told(json.loads(done.stdout)["findings"], Level.WARNING)
    assert line.startswith("telemetry: ORT_DISABLE_TELEMETRY=0")
