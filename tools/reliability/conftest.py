"""The short forms are tests of `make test-full`: `make test` does not import them."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("tier", "all") == "quick" else None
