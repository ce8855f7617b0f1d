"""Clocks for certificates that do not depend on what else the machine does."""

import itertools
from types import SimpleNamespace

import pytest

from kanexport.certify import branch, certificate, search


@pytest.fixture(autouse=True)
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading is one second after the one before: a budget is a number of steps of the search. Tests of the
    tightness count seconds of the processor: `parametrize("steps", [time.process_time], indirect=True)`."""
    clock = SimpleNamespace(monotonic=getattr(request, "param", itertools.count().__next__))
    for module in (certificate, branch, search):
        monkeypatch.setattr(module, "time", clock)
