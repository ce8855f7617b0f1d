"""Fixtures: one repository and one server with tight limits, for commands that only read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Server, checkpoint, document, program, serving


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny`, exported by the command line from the file next to the repository, of widths 3, 4, 2."""
    folder = tmp_path_factory.mktemp("cli")
    state = checkpoint(folder / "tiny.safetensors", (3, 4, 2))
    document(program("export", state, "--repository", folder / "models", "--name", "tiny", "--json"))
    return folder / "models"


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with limits of 16 KiB per response and 500 rows per edge query."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(repository, log, "--max-response-bytes", "16KiB", "--max-edge-query-rows", "500") as running:
        yield running
