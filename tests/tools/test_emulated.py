"""The emulated aarch64 machine: reasons why there is none, and its launcher."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from tests.support.tiers import full
from tools import emulated
from tools.emulated import Machine


def test_absent_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert emulated.reason().startswith("qemu-aarch64, debootstrap, dpkg not installed (Debian: apt-get install")
    with pytest.raises(emulated.Unavailable, match="qemu-aarch64, debootstrap, dpkg not installed"):
        Machine(tmp_path / "machine").create(tmp_path / "server.txt", [])
    assert not (tmp_path / "machine").exists()


def test_only_root_can_create_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("qemu-aarch64", "debootstrap", "dpkg"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert emulated.reason() == "debootstrap needs root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(emulated, "mirror", lambda: "")
    assert emulated.reason() == "the apt sources of this machine have no mirror of Debian"
    monkeypatch.setattr(emulated, "mirror", lambda: "http://mirror.example/debian")
    assert emulated.reason() == ""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert emulated.reason() == "this machine is aarch64"


@full("package")
def test_a_failed_step_shows_the_end_of_its_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("qemu-aarch64", "dpkg"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "debootstrap").write_text('#!/bin/sh\necho "no network: $*" >&2\nexit 3\n')
    (tmp_path / "debootstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(emulated, "mirror", lambda: "http://mirror.example/debian")
    with pytest.raises(emulated.Failed, match="debootstrap exits with 3:\nno network: --arch=arm64 --foreign"):
        Machine(tmp_path / "machine").create(tmp_path / "server.txt", [])


@full("package")
def test_python_there_is_its_own_executable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The launcher gives all arguments to Python, and its own path as the name of the program."""
    recorder = tmp_path / "qemu-aarch64"
    recorder.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    recorder.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    machine = Machine(tmp_path / "a machine")
    machine.python.parent.mkdir()
    machine.python.write_text(machine._launcher())
    machine.python.chmod(0o755)
    words = subprocess.run(
        [machine.python, "-c", "x y"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[:2] == ["-cpu", "cortex-a72"]
    assert words[-5:] == ["-0", str(machine.python), str(tmp_path / "a machine/root/usr/bin/python3.13"), "-c", "x y"]
    assert words[words.index("-L") + 1] == str(tmp_path / "a machine/root")


def test_the_mirror_is_the_one_of_this_machine() -> None:
    assert emulated.mirror() == "" or emulated.mirror().endswith("/debian")
