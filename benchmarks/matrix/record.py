"""Records of the measurements: one line of JSON per cell, with its commit, machine and package versions."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from kanserve.contrib.bench.runner import processor

PACKAGES = ("onnxruntime", "onnx", "numpy", "torch", "onnxscript", "pykan")
MEASURED = ("kanexport", "service/kanserve", "benchmarks")  # folders whose changes count, committed or not
CELL = ("group", "case", "threads", "rows")


def place() -> dict[str, Any]:
    """Machine, versions and commit: cells are kept for these."""
    return {"commit": commit(), "machine": machine(), "versions": versions()}


def machine() -> dict[str, Any]:
    """Facts that distinguish one machine from another."""
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Versions of the installed packages that times depend on."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str:
    """Commit of this checkout, plus a digest of uncommitted changes, if there are any."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> bytes:
        return subprocess.run(("git", "-C", str(root), *words), capture_output=True, check=True).stdout

    try:
        head = git("rev-parse", "--short=10", "HEAD").decode().strip()
        changed = git("diff", "HEAD", "--", *MEASURED) + git("status", "--porcelain", "--", *MEASURED)
    except (OSError, subprocess.CalledProcessError):
        return "no git"
    return f"{head}+{hashlib.sha256(changed).hexdigest()[:6]}" if changed else head


class Kept:
    """The file of measured cells. The program skips stored cells; if a cell has several records, the last counts."""

    def __init__(self, path: Path, here: Mapping[str, Any]) -> None:
        self._path, self._here = path, dict(here)
        self._cells = {_key(cell): cell for cell in _read(path) if all(cell.get(name) == here[name] for name in here)}

    def has(self, key: Mapping[str, Any], *, quick: bool) -> bool:
        """Also where it was measured at length and quick is enough."""
        cell = self._cells.get(_key(key))
        return cell is not None and (quick or not cell["quick"])

    def add(self, record: Mapping[str, Any]) -> None:
        """A line, at once."""
        line = {**self._here, **record}
        self._cells[_key(line)] = line
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """A cell, if it was measured."""
        return self._cells.get(_key(key))


def _key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in CELL)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """A line that was cut off, by an end in the middle of it, is passed over."""
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
