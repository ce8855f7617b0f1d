"""Installation of the custom operator by `make setup`: its messages, and the compiler that it selects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.conftest import SOURCE, builder
from tests.support.tiers import full

INSTALL = SOURCE / "install.py"


def run(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(INSTALL), str(tmp_path / "zig"), *arguments]
    environment = os.environ | {"PYTHONPATH": "", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_build_that_fails_is_a_message_and_setup_continues(tmp_path: Path) -> None:
    done = run(tmp_path, CXX="false")
    assert done.returncode == 0
    assert "The custom operator is not installed: kanserve uses its portable graphs" in done.stderr
    assert "false" in done.stderr


@full("package")
def test_a_download_that_fails_is_an_error_of_the_wheels(tmp_path: Path) -> None:
    done = run(tmp_path, str(tmp_path / "dist"), PIP_NO_INDEX="1")
    assert done.returncode == 1
    assert "ziglang" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_a_named_compiler_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = builder()
    monkeypatch.setenv("CXX", "ccache clang++ -v")
    assert module.compiler() == ["ccache", "clang++", "-v"]
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "clang++").touch(mode=0o755)
    assert module.compiler() == [str(tmp_path / "clang++")]


def test_an_unknown_architecture_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = builder()
    monkeypatch.setattr(module, "ziglang", lambda: [sys.executable, "-m", "ziglang", "c++"])
    with pytest.raises(module.CannotBuild, match="the architecture is riscv64, expected one of x86_64, aarch64"):
        module.build(tmp_path / "out.so", tmp_path, "riscv64")
