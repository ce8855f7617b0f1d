"""Build of the custom operator's library and of the extension module `calls`, as a step of the wheel build or by hand.

    python kernel/build_library.py OUTPUT.so [ARCHITECTURE]

The build compiles the evaluation once per instruction set. The library selects the best set of the processor at run
time, so that one wheel serves all processors of an architecture. The build needs a C++17 compiler: `CXX`, g++, clang++
or the package ziglang, which pip installs. ziglang also compiles for another architecture, x86_64 or aarch64, and for
every Linux with glibc 2.17 or later. A wheel build takes the architecture from KANKERNEL_ARCHITECTURE.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GLIBC = "2.17"  # the oldest that a library of ziglang runs with, as in the tag manylinux2014
ARCHITECTURES = ("x86_64", "aarch64")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
)
FLAGS = (*FLAGS, "-Wno-psabi")  # vectors never leave a file
X86 = {
    "evaluate_avx512.cpp": (
        *("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma", "-mprefer-vector-width=512"),
    ),
    "evaluate_avx2.cpp": ("-mavx2", "-mfma"),
}
EVERYWHERE = ("evaluate_portable.cpp", "prepare.cpp", "prepare_basis.cpp", "program.cpp")
EVERYWHERE = (*EVERYWHERE, "operator.cpp", "edges_operator.cpp", "program_operators.cpp")
CALLS, MODULE = "calls.cpp", "calls.abi3.so"  # the extension module, for each CPython from 3.11


class CannotBuild(Exception):
    """The build fails; the message has the reason."""


class Missing(CannotBuild):
    """A tool or header is absent; the message shows how to get it."""


def build(output: Path, folder: Path, architecture: str = "") -> str:
    """Write the library to `output`, the extension module `calls` into the same folder, and object files to `folder`.
    Return the platform tag of the wheel.

    architecture  one of ARCHITECTURES; empty for this machine, with the first compiler that is installed
    Raises CannotBuild, and Missing for a compiler.
    """
    here = {"AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    architecture = architecture or here
    command, flags = compiler(), FLAGS
    zig = command[-2:] == ["ziglang", "c++"]
    if architecture != here and not zig:
        command, zig = ziglang(), True
    if zig:
        if architecture not in ARCHITECTURES:
            raise CannotBuild(f"the architecture is {architecture}, expected one of {', '.join(ARCHITECTURES)}")
        flags = (*flags, "-target", f"{architecture}-linux-gnu.{GLIBC}")
    sources = {CALLS: (), **dict.fromkeys(EVERYWHERE, ()), **(X86 if architecture == "x86_64" else {})}
    with ThreadPoolExecutor(2) as pool:
        calls, *objects = pool.map(lambda item: _compiled([*command, *flags], folder, *item), sources.items())
    link = ("-shared", "-s", *(() if zig else ("-static-libgcc",)))
    link = (*command, *(flags[-2:] if zig else ()), *link)
    _run(*link, "-Wl,-z,defs", "-o", str(output), *objects)
    _run(*link, "-o", str(output.with_name(MODULE)), calls)  # the running Python has the functions that it needs
    if zig:
        return f"manylinux_{GLIBC.replace('.', '_')}_{architecture}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compiler() -> list[str]:
    """The command of the C++ compiler. Raises Missing."""
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    return ziglang()


def ziglang() -> list[str]:
    """The command of the compiler in the package ziglang. Raises Missing."""
    if importlib.util.find_spec("ziglang") is None:
        raise Missing("no C++ compiler is installed: install g++, run `pip install ziglang`, or name a compiler in CXX")
    return [sys.executable, "-m", "ziglang", "c++"]


def _compiled(command: list[str], folder: Path, source: str, flags: tuple[str, ...]) -> str:
    target = folder / Path(source).with_suffix(".o").name
    _run(*command, *flags, "-c", str(HERE / "src" / source), "-o", str(target))
    return str(target)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{shlex.join(command)} failed: {(done.stderr or done.stdout).strip()[:2000]}")


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, without hatchling
    pass
else:

    class Hook(BuildHookInterface):  # type: ignore[type-arg]
        """A hatchling hook that adds the library to the wheel, with a tag for its platform and any Python 3."""

        def dependencies(self) -> list[str]:
            """See hatchling: pip installs ziglang for the build if this machine has no compiler."""
            try:
                compiler()
            except Missing:
                return ["ziglang>=0.17,<0.18"]
            return []

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """See hatchling."""
            library = HERE / "kanserve_kernel" / "libkanserve_kernel.so"
            with tempfile.TemporaryDirectory() as folder:
                tag = build(library, Path(folder), os.environ.get("KANKERNEL_ARCHITECTURE", ""))
            build_data.update(pure_python=False, tag=f"py3-none-{tag}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        try:
            print(build(Path(sys.argv[1]), Path(work), *sys.argv[2:3]))
        except CannotBuild as fault:
            sys.exit(str(fault))
