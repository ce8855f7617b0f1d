"""Fixtures: the custom operator's library, built once for each state of its sources; tests say so if it cannot be
built."""

import contextlib
import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kanexport.shared import custom_ops

SOURCE = Path(__file__).parents[2] / "kernel"


def builder() -> ModuleType:
    """The module kernel/build_library.py, which is not part of a package."""
    spec = importlib.util.spec_from_file_location("build_library", SOURCE / "build_library.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder for what is built from this state of the sources, which pytest's cache keeps."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    base = tmp_path_factory.getbasetemp()
    folder = (cache.mkdir("kernel") if cache else base if worker_id == "master" else base.parent) / _state()
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def alone(place: Path) -> Iterator[Path]:
    """A temporary folder next to the builds, for one worker at a time."""
    with (place / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=place) as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(folder)


@pytest.fixture(scope="session")
def package(place: Path) -> Path:
    """A folder with the package kanserve_kernel in it."""
    home, fault = place / custom_ops.PACKAGE, ""
    with alone(place) as folder:
        if not home.exists():
            fault = _build(folder, home)
    if fault:
        pytest.skip(f"the operator is not built here: {fault[:300]}")
    return place


def _state() -> str:
    """Digest of the sources, the build and the compiler."""
    files = sorted(path for path in SOURCE.rglob("*") if path.suffix in (".cpp", ".h", ".inc", ".py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    with contextlib.suppress(builder().CannotBuild):
        digest.update(subprocess.run([*builder().compiler(), "--version"], capture_output=True, check=False).stdout)
    return digest.hexdigest()[:16]


def _build(folder: Path, home: Path) -> str:
    """Build in a folder, and move the package to its home. Returns what is missing; what does not compile is a
    failure."""
    module = builder()
    try:
        module.build(folder / "libkanserve_kernel.so", folder)
    except module.Missing as error:
        return str(error)
    shutil.copytree(
        SOURCE / custom_ops.PACKAGE, folder / "package", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    for path in folder.glob("*.so"):
        path.rename(folder / "package" / path.name)
    (folder / "package").rename(home)
    return ""


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As if the package were installed, for this process and those that it starts; the library's path."""
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delitem(sys.modules, custom_ops.PACKAGE, raising=False)
    yield custom_ops.library()
    sys.modules.pop(custom_ops.PACKAGE, None)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not."""
    monkeypatch.setitem(sys.modules, custom_ops.PACKAGE, None)
