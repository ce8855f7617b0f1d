"""`make setup`: the torch build that it chooses from pip's output, and the messages that it prints."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "requirements" / "torch_build.py"
LINUX = {"platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.13"}
# As PyPI's wheels of 2.9 and of 2.15 say it, and a CPU build's.
OLD_CUDA = ["filelock", 'nvidia-cublas-cu12==12.8.4.1; platform_system == "Linux" and platform_machine == "x86_64"']
NEW_CUDA = ["filelock", 'cuda-toolkit[cublas]==13.2.2; platform_system == "Linux"']
CPU = ["filelock", "sympy>=1.13.3", 'optree>=0.13.0; extra == "optree"']


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's names; its decision is kept in a folder of this test, and pip runs nothing."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return runpy.run_path(str(SCRIPT))


def report(requires: list[str]) -> dict[str, Any]:
    return {"install": [{"metadata": {"name": "torch", "requires_dist": requires}}]}


@pytest.mark.parametrize(
    ("requires", "machine", "build"),
    [
        (OLD_CUDA, "x86_64", "cuda"),
        (OLD_CUDA, "aarch64", "cpu"),
        (NEW_CUDA, "x86_64", "cuda"),
        (CPU, "x86_64", "cpu"),
        ([], "x86_64", "cpu"),
    ],
)
def test_a_build_is_known_by_what_it_needs(
    script: dict[str, Any], requires: list[str], machine: str, build: str
) -> None:
    assert script["build_of"](report(requires), LINUX | {"platform_machine": machine}) == build


@pytest.mark.parametrize(("build", "reason"), [("cuda", "only its CUDA build"), ("none", "no build of it")])
def test_what_is_left_out_is_said_once_with_the_way_to_get_it(
    script: dict[str, Any], build: str, reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script["main"].__globals__["what_pip_would_take"] = lambda: build
    assert script["main"]("") == 0
    line = capsys.readouterr().out
    assert reason in line
    assert "make setup TORCH=1" in line
    assert (tmp_path / ".torch").read_text() == "left out"
    script["main"].__globals__["what_pip_would_take"] = lambda: pytest.fail("it was asked twice")
    assert script["main"]("") == 0
    assert capsys.readouterr().out == ""


def test_pip_is_asked_for_what_the_project_asks_for(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> Any:
        requested.append(command)
        return script["subprocess"].CompletedProcess(command, 0, json.dumps(report(CPU)), "")

    monkeypatch.setattr(script["subprocess"], "run", pip)
    assert script["what_pip_would_take"]() == "cpu"
    assert "--dry-run" in requested[0]
    assert requested[0][-1].startswith("torch>=")


@pytest.mark.parametrize(("wish", "code"), [("1", 1), ("", 0)])
def test_only_a_torch_that_was_asked_for_must_install(
    script: dict[str, Any], wish: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fails = script["subprocess"].CompletedProcess([], 1)
    monkeypatch.setattr(script["subprocess"], "run", lambda *_, **__: fails)
    script["main"].__globals__["what_pip_would_take"] = lambda: "cpu"
    assert script["main"](wish) == code
    assert not (tmp_path / ".torch").exists()
