"""Build of the custom operator's library with the system compiler, as a step of the wheel build or by hand.

    python kernel/build_library.py OUTPUT.so

The build compiles the evaluation once per instruction set. The library selects the best set of the processor at run
time, so that one wheel serves all processors of an architecture. The build needs g++ (or `CXX`) and onnxruntime's C++
header. It takes the header from `ORT_INCLUDE` or from the folder of Debian's libonnxruntime-dev. Otherwise it downloads
this package with apt-get and extracts the header without an installation.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEADER = "onnxruntime_cxx_api.h"
INSTALLED = (Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime"))
PACKAGE = "libonnxruntime-dev"
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
EVERYWHERE = (*EVERYWHERE, "operator.cpp", "program_operators.cpp")


class CannotBuild(Exception):
    """The build fails; the message has the reason."""


class Missing(CannotBuild):
    """A tool or header is absent; the message shows how to get it."""


def build(output: Path, folder: Path) -> None:
    """The library, with what is made on the way in `folder`. Raises CannotBuild, and Missing for a tool or a header."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        raise Missing("there is no g++: install one (apt-get install g++), or name a C++ compiler in CXX")
    include = header(folder)
    x86 = platform.machine() in ("x86_64", "AMD64")
    sources = {**dict.fromkeys(EVERYWHERE, ()), **(X86 if x86 else {})}
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda item: _compiled(compiler, include, folder, *item), sources.items()))
    _run(compiler, "-shared", "-s", "-o", str(output), *objects, "-Wl,-z,defs", "-static-libgcc")


def header(folder: Path) -> Path:
    """The folder of onnxruntime's header. Raises Missing."""
    supplied = os.environ.get("ORT_INCLUDE")
    for place in (Path(supplied),) if supplied else INSTALLED:
        if (place / HEADER).is_file():
            return place
    if supplied:
        raise Missing(f"ORT_INCLUDE is {supplied}, which has no {HEADER}")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Missing(f"there is no {HEADER}: name its folder in ORT_INCLUDE (Debian has it in {PACKAGE})")
    try:
        _run("apt-get", "download", "-qq", PACKAGE, cwd=folder)
    except CannotBuild as error:
        raise Missing(f"there is no {HEADER}, and apt-get cannot download {PACKAGE}: {error}") from error
    package = next(folder.glob(f"{PACKAGE}_*.deb"))
    _run("dpkg-deb", "-x", str(package), str(folder / PACKAGE))
    return folder / PACKAGE / "usr" / "include" / "onnxruntime"


def _compiled(compiler: str, include: Path, folder: Path, source: str, flags: tuple[str, ...]) -> str:
    target = folder / Path(source).with_suffix(".o").name
    _run(compiler, *FLAGS, *flags, "-isystem", str(include), "-c", str(HERE / "src" / source), "-o", str(target))
    return str(target)


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{' '.join(command[:1])} failed: {(done.stderr or done.stdout).strip()[:2000]}")


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, without hatchling
    pass
else:

    class Hook(BuildHookInterface):  # type: ignore[type-arg]
        """A hatchling hook that adds the library to the wheel, with a tag for this platform and any Python 3."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """See hatchling."""
            with tempfile.TemporaryDirectory() as folder:
                build(HERE / "kanserve_kernel" / "libkanserve_kernel.so", Path(folder))
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data.update(pure_python=False, tag=f"py3-none-{tag}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(Path(sys.argv[1]), Path(folder))
        except CannotBuild as fault:
            sys.exit(str(fault))
