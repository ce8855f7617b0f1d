"""Types and registry of the reliability tests.

A test is a file `row_NN_what.py` with a ROW in it. It has two forms. The short form takes seconds and is part of the
test suite: `test_row = suite(ROW)` in the row's file, or `guarded_by` if a test of the suite already does the same. The
full form runs with `python -m tools.reliability`. A test that cannot run here raises NotRun with the reason, so the
tables show only observed results.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.tiers import full

FOLDER = Path(__file__).parent
TRANSPORTS = ("asgi", "grpcio")
NUMBERS = (*map(str, range(1, 38)), "mutation", "supply")
MINUTES = 20.0  # that a row may take, unless it says otherwise


class NotRun(Exception):
    """A requirement of the test is absent; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of a test run. `tell(done, total)` reports progress; `minutes`: duration of tests without a fixed end."""

    full: bool
    tell: Callable[[int, int], None] = lambda done, total: None
    minutes: float = 0.0

    def of(self, short: int, full: int) -> int:
        """How many of something."""
        return full if self.full else short


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a test. `figures`: the figures of the goal, by name with unit; `count`: the number of attempts."""

    figures: Mapping[str, float | int | str]
    passed: bool
    count: int = 0
    notes: str = ""


Run = Callable[[Scale, int, str], Outcome]


@dataclass(frozen=True, slots=True)
class Row:
    """One reliability test. `run(scale, seed, transport)`: transport is "" unless the test uses the network (`wire`).
    `result`: the result in words, with the names of figures in braces. `needs`: its imports. `guarded_by`: the tests of
    the suite that are its short form, if `run` is not."""

    number: str
    title: str
    method: str
    goal: str
    run: Run
    result: str = ""
    wire: bool = False
    needs: tuple[str, ...] = ()
    guarded_by: tuple[str, ...] = ()
    minutes: float = field(default=MINUTES)

    @property
    def ways(self) -> tuple[str, ...]:
        """The transports that it runs over."""
        return TRANSPORTS if self.wire else ("",)

    def lacking(self, transport: str) -> list[str]:
        """Modules that are not installed."""
        wanted = (*self.needs, *(("h2corn",) if transport == "asgi" else ()))
        return [name for name in wanted if importlib.util.find_spec(name) is None]


def not_yet(reason: str) -> Run:
    """The `run` of a row whose subject does not exist."""

    def run(scale: Scale, seed: int, transport: str) -> Outcome:
        raise NotRun(reason)

    return run


def rows() -> dict[str, Row]:
    """All, by number, in their order."""
    modules = (importlib.import_module(f"tools.reliability.{path.stem}") for path in sorted(FOLDER.glob("row_*.py")))
    result: list[Row] = [module.ROW for module in modules]
    return {row.number: row for row in sorted(result, key=lambda row: NUMBERS.index(row.number))}


def suite(row: Row, seed: int = 1) -> Callable[[str], None]:
    """The short form as a test, over each transport where it is about the wire."""

    @full("load")
    @pytest.mark.parametrize("transport", row.ways)
    def test_row(transport: str) -> None:
        if lacking := row.lacking(transport):
            pytest.skip(f"could not import {', '.join(lacking)}")
        try:
            outcome = row.run(Scale(full=False), seed, transport)
        except NotRun as reason:
            pytest.skip(str(reason))
        assert outcome.passed, f"{dict(outcome.figures)} where the target is: {row.goal} {outcome.notes}"

    return test_row
