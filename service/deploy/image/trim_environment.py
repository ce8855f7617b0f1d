"""Remover of files that a server does not read, from a virtual environment. A step of the image build.

    python trim_environment.py ENVIRONMENT

The program prints one line per rule: removed megabytes, pattern and reason. A rule may match nothing, because packages
differ between versions of Python. `tests/integration/deploy/test_image.py` starts a server from an environment without
these files.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

MEGABYTE = 1_000_000


class TrimError(Exception):
    """A reason to stop the build; the message has what was found and what was expected."""


class Rule(NamedTuple):
    """Files of one kind. `pattern` and `keep` are globs below site-packages; in ENVIRONMENT, below the environment."""

    pattern: str
    reason: str
    keep: tuple[str, ...] = ()


PACKAGES = (
    Rule("onnxruntime/capi/libonnxruntime.so*", "the library of C programs; Python's module has the same code inside"),
    Rule("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", "a device that the server does not use"),
    Rule("onnxruntime/transformers", "optimizer of language models, runs before serving"),
    Rule("onnxruntime/quantization", "quantizer, runs before serving"),
    Rule("onnxruntime/tools", "converters of models, run before serving"),
    Rule("onnxruntime/datasets", "examples"),
    Rule("onnxruntime/backend", "the interface of the package onnx"),
    Rule("numpy/f2py", "generator of Fortran bindings"),
    Rule("numpy/distutils", "build of extension modules"),
    Rule("numpy/_pyinstaller", "build of programs"),
    Rule("numpy/_core/include", "headers of C"),
    Rule("numpy/_core/lib", "static libraries"),
    Rule("numpy/random/lib", "static libraries"),
    Rule("numpy/random/_examples", "examples"),
    Rule("numpy/_core/_simd.*", "module for tests of numpy"),
    Rule("numpy/_core/_*_tests.*", "modules for tests of numpy"),
    Rule("numpy/conftest.py", "tests"),
    Rule(
        "pygments/lexers/[a-z]*.py",
        "syntax of other languages than Python",
        keep=("pygments/lexers/python.py", "pygments/lexers/special.py"),
    ),
    Rule("**/tests", "tests"),
    Rule("**/*.pyi", "type stubs"),
    Rule("**/*.pxd", "declarations for Cython"),
    Rule("**/*.pyx", "sources of Cython"),
    Rule("**/*.pyx.pxi", "sources of Cython"),
    Rule("*.dist-info/RECORD", "list of files for pip, no longer true"),
    Rule("pip", "installer"),
    Rule("pip-*.dist-info", "installer"),
    Rule("setuptools", "installer"),
    Rule("setuptools-*.dist-info", "installer"),
    Rule("pkg_resources", "installer"),
    Rule("_distutils_hack", "installer"),
    Rule("distutils-precedence.pth", "installer"),
    Rule(
        "kanexport/*",
        "exporter; the server needs the manifest and the modules that both share",
        keep=("kanexport/__init__.py", "kanexport/shared"),
    ),
)
ENVIRONMENT = (
    Rule("bin/*", "programs of packages", keep=("bin/python*", "bin/kanserve")),
    Rule("include", "headers of C"),
    Rule("share", "manual pages"),
)


def site_packages(environment: Path) -> Path:
    """The folder of the packages. Raises TrimError if there is not exactly one."""
    folders = sorted(environment.glob("lib/python3.*/site-packages"))
    if len(folders) != 1 or not (environment / "pyvenv.cfg").is_file():
        raise TrimError(f"{environment} has {len(folders)} folders of packages, expected one virtual environment")
    return folders[0]


def matches(root: Path, rule: Rule) -> Iterator[Path]:
    """The files and folders of a rule below `root`, without those to keep. Raises TrimError if a link leads out of
    `root`."""
    kept = {path for pattern in rule.keep for path in root.glob(pattern)}
    for path in sorted(root.glob(rule.pattern)):
        if path.parent.resolve().is_relative_to(root.resolve()):
            if path not in kept:
                yield path
        else:
            raise TrimError(f"{path} is in {path.parent.resolve()}, expected a file in {root.resolve()}")


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,)
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())


def trim(root: Path, rule: Rule) -> int:
    """Remove the files of a rule; returns their bytes."""
    removed = 0
    for path in list(matches(root, rule)):
        removed += size(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # a folder of the same rule had it
    return removed


def main(arguments: Sequence[str]) -> int:
    """Trim one environment and print the table. The exit code is 1 if the folder is not a separate environment."""
    try:
        (environment,) = (Path(argument) for argument in arguments)
        packages = site_packages(environment)
        before = size(environment)
        for root, rules in ((packages, PACKAGES), (environment, ENVIRONMENT)):
            for rule in rules:
                print(f"{trim(root, rule) / MEGABYTE:8.2f} MB  {rule.pattern:38}  {rule.reason}")
    except (ValueError, TrimError) as error:
        print(f"trim_environment: {error}; usage: python trim_environment.py ENVIRONMENT", file=sys.stderr)
        return 1
    print(f"{before / MEGABYTE:8.2f} MB  before\n{size(environment) / MEGABYTE:8.2f} MB  after")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
