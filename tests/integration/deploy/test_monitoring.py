"""Monitoring files: valid, tested by promtool, and limited to metrics that a running server exports."""

import ast
import json
import re
import runpy
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support import compose_stack
from tests.support.command_line import checkpoint, serving
from tests.support.command_line import exported as exported_models
from tests.support.tiers import full

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "service" / "deploy" / "monitoring"
RULES = MONITORING / "prometheus" / "rules.yml"
TESTS = ("rules_test.yml", "rules_hours_test.yml")
DASHBOARD = MONITORING / "grafana" / "kanserve.json"
OPERATIONS = ROOT / "docs" / "operations"
RUNBOOK = [OPERATIONS / f"{name}.md" for name in ("runbook", "runbook-models", "runbook-server")]
ENTRY = ("| severity | impact on clients | escalate to |", "* **First command.**", "* **Verify.**")
# Burn rates whose entry refers to that of the fastest one.
SLOWER = tuple(f"KanserveErrorBudgetBurnsIn{days}Days" for days in (5, 10, 30))
# Pattern of the metric names that kanserve, the Python client and Prometheus define.
METRIC = re.compile(r"\b(?:nv|grpc|kanserve|process)_[a-z0-9_]+")

PANEL = {"id", "type", "title", "gridPos"}
TARGET = {"refId", "expr", "legendFormat", "datasource"}


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The metrics of a server with one model, before its first request."""
    folder = tmp_path_factory.mktemp("deploy")
    state = checkpoint(folder / "tiny.safetensors", (2, 2))
    np.save(folder / "train.npy", np.zeros((5, 2)))
    reference = ("--baseline", folder / "train.npy", "--out-of-range", "flag", "--classes", "cat,dog")
    models = exported_models(state, "tiny", *reference, "--certify", "--certify-budget", "0.5s")
    with (
        serving(models, folder / "log") as server,
        urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=60) as response,
    ):
        return str(response.read().decode())


@pytest.fixture(scope="module")
def exported(page: str) -> set[str]:
    """Names of all samples."""
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in page.splitlines() if line and line[0] != "#"}


def test_the_dashboard_has_the_shape_that_grafana_reads(dashboard: Any) -> None:
    assert (dashboard["id"], dashboard["uid"]) == (None, "kanserve"), "a number would overwrite another dashboard"
    assert {"title", "schemaVersion", "refresh", "time"} < dashboard.keys()
    for panel in dashboard["panels"]:
        assert panel["type"] in ("row", "timeseries", "stat", "table", "heatmap")
        assert (PANEL if panel["type"] == "row" else PANEL | {"targets", "datasource", "fieldConfig"}) <= panel.keys()
        assert all(target.keys() >= TARGET for target in panel.get("targets", []))
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names == ["datasource", "namespace", "release", "job", "instance", "model", "version"]
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Latency", "Models", "Resources", "Edge queries", "Data quality"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_do_not_overlap(dashboard: Any) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies over {taken[cell]}"
            taken[cell] = panel["title"]


def test_every_rate_follows_the_zoom(dashboard: Any) -> None:
    for panel, expression in queries(dashboard):
        windows = re.findall(r"\[([^]]+)\]", expression)
        assert set(windows) <= {"$__rate_interval"}, panel
        assert all(f"${name}" in expression for name in ("namespace", "release", "job")), panel


def test_the_dashboard_is_what_its_maker_writes() -> None:
    created = runpy.run_path(str(MONITORING / "grafana" / "make.py"))["text"]()
    assert created == DASHBOARD.read_text(), "run `python service/deploy/monitoring/grafana/make.py`"


@full("package")
def test_every_metric_of_dashboard_and_rules_exists(
    dashboard: Any, rules: list[dict[str, Any]], exported: set[str]
) -> None:
    shown = [expression for _, expression in queries(dashboard)]
    shown += [variable.get("definition") for variable in dashboard["templating"]["list"]]
    for texts in (shown, [rule["expr"] for rule in rules]):
        named = set(METRIC.findall(json.dumps(texts)))
        assert len(named) > 10
        assert sorted(named - known(exported)) == []


def known(exported: set[str]) -> set[str]:
    """Sample names, and the label names that have the form of metrics."""
    return exported | {"grpc_method", "grpc_code", "grpc_service", "grpc_type"}


@full("package")
def test_every_histogram_is_queried_by_its_buckets(rules: list[dict[str, Any]], exported: set[str]) -> None:
    histograms = {name.removesuffix("_bucket") for name in exported if name.endswith("_bucket")}
    for rule in rules:
        for name in METRIC.findall(rule["expr"]):
            assert name not in histograms, f"{name} is a histogram: {rule}"
            assert re.sub(r"_(bucket|sum|count)$", "", name) in histograms or name in known(exported)


def test_every_recorded_series_that_is_used_is_recorded(rules: list[dict[str, Any]]) -> None:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    used = set(re.findall(r"kanserve:[a-z_]+:[a-z0-9]+", " ".join(rule["expr"] for rule in rules)))
    assert sorted(used - recorded) == []


def test_every_alert_is_explained_in_the_runbook(rules: list[dict[str, Any]]) -> None:
    alerts = [rule for rule in rules if "alert" in rule]
    headings = [name for page in RUNBOOK for name in re.findall(r"^## (Kanserve.+)$", page.read_text(), re.MULTILINE)]
    assert len(set(headings)) == len(headings)
    assert {alert["alert"] for alert in alerts} == set(headings)
    for alert in alerts:
        severity = alert["labels"]["severity"]
        assert severity in ("page", "ticket", "info")
        link, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert anchor == alert["alert"].lower()
        page = ROOT / link.partition("/blob/main/")[2]
        _, heading, rest = page.read_text().partition(f"\n## {alert['alert']}\n")
        assert heading, f"{page.name} has no section {alert['alert']}"
        entry = rest.partition("\n## ")[0]
        if alert["alert"] in SLOWER:
            assert f"Severity {severity}," in entry
            continue
        assert f"\n| {severity} | " in entry, alert["alert"]
        assert [part for part in ENTRY if part not in entry] == [], alert["alert"]
        assert re.search(r"\* \*\*(?:Decide and fix|Fix)\.\*\*", entry), alert["alert"]


def test_the_runbook_has_an_index_of_all_alerts(rules: list[dict[str, Any]]) -> None:
    index = RUNBOOK[0].read_text().partition("\n## Index\n")[2].partition("\n## ")[0]
    for alert in (rule["alert"] for rule in rules if "alert" in rule):
        assert alert in index or alert in SLOWER, alert


@full("package")
def test_every_line_of_level_error_is_explained_in_the_runbook() -> None:
    headings = re.findall(r"^### `(.+)`$", (OPERATIONS / "runbook-errors.md").read_text(), re.MULTILINE)
    lines = set()
    for path in (ROOT / "service" / "kanserve").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("log.error", "log.exception", "log.critical"):
                assert isinstance(call.args[0], ast.Constant), f"{path.name}: the runbook cannot name what is not fixed"
                lines.add(call.args[0].value)
    assert len(lines) > 5
    assert sorted(lines) == sorted(headings)


def test_every_alert_is_tested(rules: list[dict[str, Any]]) -> None:
    tests = "".join((MONITORING / "prometheus" / name).read_text() for name in TESTS)
    # The slower burn rates differ from the first in numbers only.
    untested = [rule["alert"] for rule in rules if "alert" in rule and rule["alert"] not in tests]
    assert untested == list(SLOWER)


@full("package")
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", *TESTS)],
    ids=["config", "rules", "alerts"],
)
def test_promtool(arguments: tuple[str, ...]) -> None:
    command, folder = [compose_stack.program("promtool"), *arguments], MONITORING / "prometheus"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@full("package")
def test_every_query_of_the_dashboard_is_promql(dashboard: Any, tmp_path: Path) -> None:
    expressions = [expression.replace("$__rate_interval", "5m") for _, expression in queries(dashboard)]
    rules = [{"record": f"query:{at}", "expr": expression} for at, expression in enumerate(expressions)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = [compose_stack.program("promtool"), "check", "rules", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@full("package")
def test_promtool_reads_the_servers_own_page(page: str) -> None:
    command = [compose_stack.program("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=page.encode(), capture_output=True, timeout=60)
    # Complaints about Triton's names (no _total, microseconds) are the price of being Triton's drop-in.
    ours = [line for line in done.stderr.decode().splitlines() if not line.startswith("nv_")]
    assert ours == []


def queries(dashboard: Any) -> list[tuple[str, str]]:
    """(panel title, expression) of every target."""
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
