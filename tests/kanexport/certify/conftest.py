"""A clock for certificates that is independent of the machine."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from kanexport.certify import branch, certificate, search


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading is one second after the one before: a budget is a number of steps of the search."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    for module in (certificate, branch, search):
        monkeypatch.setattr(module, "time", clock)
