"""Report of the server benchmark: the page has the words that the report writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "serving.md"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pytest.importorskip("grpc")
    from servers import contestants, report

    yield report, contestants
    for name in [name for name in sys.modules if name.partition(".")[0] == "servers"]:
        del sys.modules[name]


def test_the_page_has_the_heads_of_the_report(report: Any, tmp_path: Path) -> None:
    """A change of words changes the page too, although its figures need another machine."""
    module, contestants = report
    measured = module.Measured(streams={"kanserve asgi": [1.0]})
    for level in (1, 8, 32, 128):
        for system in contestants.contestants(tmp_path, "model", tmp_path):
            measured.add(system.name, level, module.Sample(1.0, 1.0, 1.0, 1.0))
            measured.resident[system.name] = 1.0
    page = PAGE.read_text()
    for line in module.markdown(measured, "title").splitlines():
        if line.startswith("| "):
            assert f"\n{line.split(' | ')[0]} |" in page, line
    assert "Resident memory at the end, MiB: no-op grpcio" in page
