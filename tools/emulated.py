"""An emulated aarch64 machine: Debian's Python under qemu-user, with the locked packages of the server.

Programs share the kernel, the files and the loopback address of this machine.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SUITE, PYTHON = "trixie", "3.13"
# A processor with NEON and without SVE, as in most servers and small boards of 2016 and later.
PROCESSOR = "cortex-a72"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
SECONDS = 600


class Unavailable(OSError):
    """A reason why this machine cannot emulate another one."""


class Failed(RuntimeError):
    """A step that creates the machine fails. The message has the end of its output."""


def reason() -> str:
    """Why this machine cannot emulate aarch64; empty if it can."""
    if platform.machine() == "aarch64":
        return "this machine is aarch64"
    absent = [name for name in ("qemu-aarch64", "debootstrap", "dpkg") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt-get install qemu-user debootstrap)"
    if os.geteuid() != 0:
        return "debootstrap needs root"
    return "" if mirror() else "the apt sources of this machine have no mirror of Debian"


class Machine:
    """An emulated machine whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._root, self._packages = folder / "root", folder / "packages"
        self.python = folder / "python"

    def create(self, locked: Path, wheels: Sequence[Path]) -> None:
        """Install Python, the packages of a hash-locked requirements file, and wheels. Raises Unavailable, Failed.

        It downloads 60 MB and takes about a minute and a half.
        """
        if why := reason():
            raise Unavailable(why)
        self._root.mkdir(parents=True)
        include = "--include=python3,libstdc++6,ca-certificates"
        # The second stage would run programs of the machine for its accounts and services, which nothing here needs.
        options = ["--arch=arm64", "--foreign", "--variant=minbase", include]
        _run(["debootstrap", *options, SUITE, str(self._root), mirror()])
        for package in sorted((self._root / "var/cache/apt/archives").glob("*.deb")):
            _run(["dpkg", "--extract", str(package), str(self._root)])
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--target", str(self._packages), "--only-binary", ":all:", "--implementation", "cp"]
        pip += ["--python-version", PYTHON, *(f"--platform={name}" for name in PLATFORMS)]
        pip += ["--abi", f"cp{PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
        _run([*pip, "--require-hashes", "--requirement", str(locked)])
        _run([*pip, *map(str, wheels)])
        self.python.write_text(self._launcher())
        self.python.chmod(0o755)

    def _launcher(self) -> str:
        """A script that runs Python there. It is also `sys.executable`, so that processes of Python run there too."""
        libraries = "LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu"
        command = ["qemu-aarch64", "-cpu", PROCESSOR, "-L", str(self._root), "-E", libraries]
        command += ["-E", f"PYTHONPATH={self._packages}"]
        program = shlex.quote(str(self._root / f"usr/bin/python{PYTHON}"))
        return f'#!/bin/sh\nexec {shlex.join(command)} -0 "$0" {program} "$@"\n'


def mirror() -> str:
    """The mirror of Debian that this machine uses; empty if there is none."""
    places = [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")]
    for path in places:
        text = path.read_text() if path.is_file() else ""
        if found := re.search(r"^(?:URIs: *|deb (?:\[.*\] )?)(https?://\S+/debian)/?(?:\s|$)", text, re.MULTILINE):
            return found[1]
    return ""


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).rstrip().splitlines()[-10:])
        raise Failed(f"{command[0]} exits with {done.returncode}:\n{output}")
