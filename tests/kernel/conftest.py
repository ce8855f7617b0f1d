"""Fixtures: the custom operator's library, built once for all workers; tests say so if it cannot be built."""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kanexport.contract import custom_ops

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
def package(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with the package kanserve_kernel in it."""
    root = tmp_path_factory.getbasetemp()
    place = (root if worker_id == "master" else root.parent) / "kernel"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fault, home = place / "fault", place / custom_ops.PACKAGE
        if not home.exists() and not fault.exists():
            _build(place, home, fault)
    if fault.exists():
        pytest.skip(f"the operator is not built here: {fault.read_text()[:300]}")
    return place


def _build(place: Path, home: Path, fault: Path) -> None:
    module, created = builder(), place / "made"
    created.mkdir()
    try:
        module.build(created / "libkanserve_kernel.so", created)
    except module.Missing as error:  # what does not compile is a failure
        fault.write_text(str(error))
        return
    shutil.copytree(SOURCE / custom_ops.PACKAGE, home, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for path in created.glob("*.so"):
        shutil.copy(path, home)


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
