"""Fixture: one real server for all golden models, which the command line exports and starts."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Server, exported, serving
from tests.support.golden_cases import cases
from tests.support.server_process import _the_loop_turns  # noqa: F401 - a fixture for every test


@pytest.fixture(scope="session")
def golden_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every golden case, exported with only its own options."""
    repository = tmp_path_factory.mktemp("golden") / "models"
    for case in cases():
        exported(case.path, case.name, *case.facts["export_args"], into=repository)
    return repository


@pytest.fixture(scope="session")
def served(golden_models: Path) -> Iterator[Server]:
    """A server of the golden models. SIGTERM stops it, and it must then exit with 0."""
    http = ("--http-port", "0") if importlib.util.find_spec("h2corn") else ()
    log = golden_models.parent / "serve.log"
    with serving(golden_models, log, *http) as server:
        yield server
    assert server.process.returncode == 0, log.read_text()
