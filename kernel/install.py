"""Build of the wheel of the custom operator, and its installation into the environment of this Python.

    python kernel/install.py ZIG_ENVIRONMENT           build for this machine, install; a failure is a message
    python kernel/install.py ZIG_ENVIRONMENT FOLDER    build a wheel for each architecture into FOLDER with ziglang

If this machine has no C++ compiler, the first form downloads ziglang (100 MB) into the separate environment
ZIG_ENVIRONMENT. The version and hashes are in requirements/kernel.txt. kanserve works without the operator, so that the
first form exits with 0 in each case.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import build_library  # noqa: E402 - the folder is not a package

PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
WITHOUT = "kanserve uses its portable graphs, which are several times slower"


class Failed(Exception):
    """A command fails; the message has its output."""


def main(zig: Path, wheels: Path | None = None) -> None:
    """Build and install the wheel, or build one of each architecture into `wheels`. Raises Failed for the latter."""
    if wheels is not None:
        compiler = _with_zig(zig)
        for architecture in build_library.ARCHITECTURES:
            print(f"== building the wheel for {architecture} ==", flush=True)
            _wheel(wheels, {"CXX": compiler, "KANKERNEL_ARCHITECTURE": architecture})
        return
    try:
        print("== building the custom operator, kanserve-kernel (15 seconds) ==", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            _wheel(Path(folder), _compiler(zig))
            wheel = next(Path(folder).glob("*.whl"))
            _run(*PIP, "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    except Failed as fault:
        print(f"{fault}\nThe custom operator is not installed: {WITHOUT}.", file=sys.stderr)


def _compiler(zig: Path) -> Mapping[str, str]:
    """Variables that select a compiler: none if this machine has one."""
    try:
        build_library.compiler()
    except build_library.Missing:
        return {"CXX": _with_zig(zig)}
    return {}


def _with_zig(zig: Path) -> str:
    """The command of ziglang's compiler, after its installation. Raises Failed."""
    python = zig / "bin" / "python"
    if not (zig / ".ready").exists():
        print("== downloading the compiler ziglang (100 MB) ==", flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(zig))
        locked = str(HERE.parent / "requirements" / "kernel.txt")
        _run(str(python), *PIP[1:], "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", locked)
        (zig / ".ready").touch()
    return shlex.join([str(python.absolute()), "-m", "ziglang", "c++"])


def _wheel(folder: Path, variables: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder.resolve()), **variables)


def _run(*command: str, **variables: str) -> None:
    done = subprocess.run(
        command,
        cwd=HERE,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{shlex.join(command)} exits with {done.returncode}:\n{done.stdout.strip()[-2000:]}")


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except Failed as failed:
        sys.exit(str(failed))
