"""Report of the server benchmark: its targets, its quartiles, and the page with the words that the report writes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.support import toy_model

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "serving.md"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package of the benchmark, which is not on the path of the tests."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pytest.importorskip("grpc")
    import servers
    from servers import contestants, load, loop, measured, production, report, targets  # noqa: F401 - attributes of the package

    yield servers
    for name in [name for name in sys.modules if name.partition(".")[0] == "servers"]:
        del sys.modules[name]


def test_the_page_has_the_heads_of_the_report(servers: ModuleType, tmp_path: Path) -> None:
    """A change of words changes the page too, although its figures need another machine."""
    production, page = servers.production, PAGE.read_text()
    measured = {production.KEY: servers.measured.Measured()}
    for cell in (
        (tool, system, line) for tool in production.BASE for system in production.SYSTEMS for line in production.LINES
    ):
        measured[production.KEY].add(production.name(*cell), 0, servers.measured.Sample(1.0, 1.0, 1.0, 1.0))
    for line in production.markdown(measured[production.KEY]).splitlines():
        assert "triton:" in line or f"\n{line.split(' | ')[0]} |" in page or not line.startswith("| "), line
    for case in servers.targets.CASES:
        measured[case.key] = servers.measured.Measured(loops={"portable graph": [1.0]} if case.rows > 1 else {})
        for level in case.levels:
            for system in servers.contestants.contestants(tmp_path, "model", tmp_path):
                if system.name in case.systems:
                    measured[case.key].add(system.name, level, servers.measured.Sample(1.0, 1.0, 1.0, 1.0))
                    measured[case.key].resident[system.name] = 1.0
        lines = servers.report.markdown(measured[case.key], "title").splitlines()
        for line in lines:
            if line.startswith("| "):
                assert f"\n{line.split(' | ')[0]} |" in page, line
    for target, goal, *_ in servers.targets.rows(measured):
        assert f"\n| {target} | {goal} |" in page


def test_a_target_is_met_by_the_median_of_the_rounds(servers: ModuleType) -> None:
    small, large = servers.targets.CASES
    measured = {small.key: servers.measured.Measured(), large.key: servers.measured.Measured()}
    name, key = servers.production.name, servers.production.KEY
    tool, measured[key] = servers.production.H2LOAD, servers.measured.Measured()
    for rate in (90.0, 100.0, 300.0):
        for line, value in (("no header", 110.0), ("token", 100.0), ("request id", rate)):
            measured[key].add(name(tool, "kanserve", line), 0, servers.measured.Sample(value, 0.0, 0.0, 1.0))
        measured[small.key].add("kanserve asgi", 32, servers.measured.Sample(rate, 50.0, 5000.0, 48.0))
        measured[small.key].add("no-op grpcio", 32, servers.measured.Sample(25.0, 20.0, 5000.0, 20.0))
        measured[large.key].add("kanserve asgi, portable graph", 4, servers.measured.Sample(rate, 1.0, 1.0, 1.0))
    measured[large.key].loops["portable graph"] = [100.0, 200.0, 300.0]
    rows = {row[0]: row[1:] for row in servers.targets.rows(measured)}
    assert rows["kanserve asgi / no-op grpcio, c = 32"] == ("at least 3.90x", "4.00x (3.80x to 8.00x)", "met")
    assert rows[f"slowest line / no extra header, {tool}"][1:] == ("0.91x (0.91x to 0.91x)", "met")
    assert rows["kanserve asgi / no-op grpcio, c = 8"] == ("at least 2.80x", "-", "not run")
    portable = "portable graph / two sessions in a loop, [784, 64, 10], 64 rows per request, c = 4"
    assert rows[portable] == ("at least 0.85x", "0.90x (0.70x to 0.95x)", "met")
    assert json.loads(json.dumps(servers.targets.record(measured)))[0]["result"] == "not run"


def test_the_production_line_is_measured_with_real_clients(servers: ModuleType, tmp_path: Path) -> None:
    production = servers.production
    measured = production.measure(1, 0.1, tmp_path, (f"; kanserve; {production.PRODUCTION}",))
    tools = [tool for tool in production.BASE if not production.reason(tool, "kanserve", production.PRODUCTION)]
    names = [production.name(tool, "kanserve", production.PRODUCTION) for tool in tools]
    assert measured.names() == names
    assert production.CLIENT in tools
    assert all(sample.rate > 0 for (sample,) in measured.samples.values())
    text = production.markdown(measured)
    assert "no-op grpcio: not run." in text
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {production.PRODUCTION} |")]
    assert line.split(" | ")[2] == "not available"  # perf_analyzer sends no deadline


def test_triton_gets_a_copy_with_dynamic_batching(
    servers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONSERVER", "/opt/tritonserver")
    (tmp_path / "models" / "model").mkdir(parents=True)
    config = tmp_path / "models" / "model" / "config.pbtxt"
    config.write_text('name: "model"\n')
    systems = servers.contestants.contestants(tmp_path / "models", "model", tmp_path)
    tritons = [system for system in systems if system.name.startswith("triton")]
    assert [system.name for system in tritons] == list(servers.contestants.TRITONS)
    (copy,) = (part.partition("=")[2] for part in tritons[1].command if part.startswith("--model-repository="))
    assert "dynamic_batching {}" in (Path(copy) / "model" / "config.pbtxt").read_text()
    assert config.read_text() == 'name: "model"\n'


def test_the_loop_counts_rows(servers: ModuleType) -> None:
    assert servers.loop.run(toy_model.graph("FP32"), 4, 2, 0.05) > 0


def test_the_client_sends_the_rows_that_the_loop_runs(servers: ModuleType, tmp_path: Path) -> None:
    """Random bits, the default of the client, take longer than values in range."""
    _, feeds, _ = servers.loop.prepared(toy_model.graph("FP32"), 5)
    ((name, rows),) = feeds.items()
    sent = json.loads(servers.load.inputs(tmp_path, name, *rows.shape).read_text())["data"]
    np.testing.assert_array_equal(np.array([row[name] for row in sent], np.float32), rows)
    assert np.abs(rows).max() <= 1
