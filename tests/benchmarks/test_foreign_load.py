"""Report of the benchmark next to foreign processes: ratios of the same round, and the words in the page."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "foreign-load.md"
LOCAL = ("servers", "foreign_load", "cpu_groups", "scale", "pages")


@pytest.fixture
def foreign_load(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, whose neighbors are not on the path of the tests."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pytest.importorskip("grpc")
    import foreign_load

    yield foreign_load
    for name in [name for name in sys.modules if name.partition(".")[0] in LOCAL]:
        del sys.modules[name]


def test_a_rate_is_relative_to_the_same_round_without_load(foreign_load: ModuleType) -> None:
    results = foreign_load.Results()
    for quiet, loaded in ((100.0, 50.0), (200.0, 20.0), (400.0, 300.0)):
        for situation, rate in ((foreign_load.Situation(0), quiet), (foreign_load.Situation(2, False), loaded)):
            results.add(situation, "server", 8, foreign_load.Sample(rate, 2000.0, 9000.0, 1.0))
    table = results.table("rate", 8, "rate")
    assert "| rate | none | 2, two cgroups |" in table
    assert "| server | 200 (150 to 300) per second | 0.50 (0.30 to 0.62) |" in table
    assert "| server | 2.0 (2.0 to 2.0) |" in results.table("p50", 8, "p50")


def test_the_page_has_the_systems_of_each_case(foreign_load: ModuleType) -> None:
    for case in foreign_load.CASES:
        text = foreign_load.pages.read(PAGE, foreign_load.key(case), foreign_load.WRITER)
        systems = [name for name in case.systems if name not in foreign_load.TRITONS]
        for name in (*systems, "kanserve asgi, compute_nice 0"):
            assert text.count(f"\n| {name} | ") == 3  # rate, p50, p99
