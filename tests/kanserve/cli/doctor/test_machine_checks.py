"""Tests of `cli/doctor/machine_checks.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kanserve.cli.doctor import machine_checks
from kanserve.cli.doctor.check_results import Level
from tests.support.command_line import CLEAN, COMMAND, kanserve
from tests.support.server_process import limited

FREE = ("--grpc-port", "0", "--metrics-port", "0")


Found = list[dict[str, str]]


def check(*arguments: object, **environment: str) -> tuple[int, Found]:
    done = kanserve("serve", *arguments, "--check", "--json", **environment)
    return done.returncode, json.loads(done.stdout)["findings"]


def told(actual: Found, level: Level) -> list[str]:
    return [f"{item['about']}: {item['text']}" for item in actual if item["level"] == level]


@pytest.mark.parametrize(
    ("flags", "level", "text"),
    [
        (("--device", "cuda"), Level.PROBLEM, "runtime: device 'cuda' is not available"),
        (("--backend", "tensorrt"), Level.PROBLEM, "runtime: unknown backend 'tensorrt'"),
        (("--threads", "1024"), Level.WARNING, "processors: threads = 1024, but"),
        (("--workers", "256"), Level.WARNING, "processors: workers = 256, but"),
        (("--gprc-port", "1"), None, ""),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_machines(models: Path, flags: tuple[str, ...], level: Level | None, text: str) -> None:
    if level is None:
        assert kanserve("serve", models, *flags, "--check").returncode == 2
        return
    code, result = check(models, *FREE, *flags)
    assert code == (2 if level is Level.PROBLEM else 0)
    assert any(line.startswith(text) for line in told(result, level)), result


def test_files_that_may_be_open(models: Path) -> None:
    command = [*limited(200), *COMMAND, "serve", str(models), *FREE, "--check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, timeout=60)
    assert done.returncode == 0
    (line,) = told(json.loads(done.stdout)["findings"], Level.WARNING)
    assert line == "open files: limit 200, but max_connections = 1000 needs 1064"


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
    code = "import sys; from kanserve.cli import main; sys.exit(main.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", str(models), *FREE, "--check", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**CLEAN, "ORT_DISABLE_TELEMETRY": "0"}, timeout=60
    )
    (line,) = told(json.loads(done.stdout)["findings"], Level.WARNING)
    assert line.startswith("telemetry: ORT_DISABLE_TELEMETRY=0")
