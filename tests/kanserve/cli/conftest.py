"""Fixtures: one shared server for the tests of commands, and a file of rows."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.named_models import repository, server  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the ROWS of the test's module."""
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, request.module.ROWS)
    return path
