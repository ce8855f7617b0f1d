"""Programs of the deployment tests: pinned downloads, and the environment that `make stack-test` creates."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from tools.manifests import download

ENVIRONMENT = Path(__file__).parents[2] / ".venv-stack" / "bin"
SOURCES = Path(__file__).parents[2] / ".venv-model-sources" / "bin"  # of the part model-sources of `make data-test`


def program(name: str) -> str:
    """A program on PATH, or the pinned download. Skips the test if it cannot be downloaded."""
    try:
        return str(download.program(name))
    except download.Unavailable as error:
        pytest.skip(f"{name} cannot be downloaded: {error}")


def command(name: str) -> str:
    """A command on PATH, or of the environment of `make stack-test`. Skips the test if it is absent."""
    found = shutil.which(name) or shutil.which(name, path=str(ENVIRONMENT))
    if found is None:
        pytest.skip(f"{name} is not installed; `make stack-test` installs it (380 MB with others)")
    return found


def interpreter(module: str) -> str:
    """A Python that has a module: this one, or the one of `make stack-test`. Skips the test if neither has it."""
    if importlib.util.find_spec(module) is not None:
        return sys.executable
    if not (ENVIRONMENT / "python").is_file():
        pytest.skip(f"{module} is not installed; `make stack-test` installs it (380 MB with others)")
    return str(ENVIRONMENT / "python")


def folders(*programs: str) -> str:
    """Folders of programs, and of the tools for sources of models, as a part of the variable PATH."""
    return os.pathsep.join([*(str(Path(program(name)).parent) for name in programs), str(SOURCES)])


def source_tool(name: str) -> str:
    """A tool for sources of models, by its path. Skips the test if it is absent."""
    found = shutil.which(name, path=str(SOURCES))
    if found is None:
        pytest.skip(f"{name} is not in the environment for sources of models; `make data-test` builds it")
    return found
