"""Fixtures and the closing summary that states the largest errors seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Many tests import onnxruntime themselves, and the processes they start take this over.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

ERRORS: dict[str, tuple[float, str]] = {}


@pytest.fixture
def state_error():
    """Call with (what, error, where): the summary prints the largest of each."""

    def state(what: str, error: float, where: str) -> None:
        if error >= ERRORS.get(what, (-1.0, ""))[0]:
            ERRORS[what] = (error, where)

    return state


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ERRORS:
        terminalreporter.section("largest errors seen")
        for what, (error, where) in sorted(ERRORS.items()):
            terminalreporter.write_line(f"{what}: {error:.2e} ({where})")
