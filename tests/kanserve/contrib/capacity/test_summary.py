"""Tests of `capacity/summary.py`: the plan in words, as a document and as a picture."""

import dataclasses
import json
import math

import pytest

from kanexport.shared.cli.console import json_text
from kanserve.contrib.bench import runner
from kanserve.contrib.capacity import sizing, summary
from kanserve.contrib.capacity.summary import Study
from kanserve.plotting import render
from tests.kanserve.contrib.capacity.test_sizing import MEMORY, curve, goal


def study(zones: int = 3) -> Study:
    return Study(
        title="tiny, 4 rows per request", place="server on core 0", machine=runner.facts("", 0.5), rows=4,
        most_rows=1024, goal=goal(zones=zones), curve=curve(), memory=MEMORY,
        plan=sizing.plan(curve(), goal(zones=zones), MEMORY),
    )  # fmt: skip


def test_the_plan_in_words() -> None:
    text = "\n".join(summary.lines(study()))
    assert "one replica of 1 core: 900 requests/s within 10 ms (p99)" in text
    assert "4,000 rows/s per busy core" in text
    assert "plan for 50,000 requests/s: 84 replicas in 3 zones, 84 cores" in text
    assert "54% CPU, or 1.1 requests in flight per replica" in text
    assert "disturbed" not in text
    for cores in (0.0, math.nan):
        idle = dataclasses.replace(study(), plan=dataclasses.replace(study().plan, cores_per_rate=cores))
        assert "busy core" not in "\n".join(summary.lines(idle))
    levels = [dataclasses.replace(item, other_cores=0.5) for item in curve().levels]
    busy = dataclasses.replace(study(), curve=dataclasses.replace(curve(), levels=levels))
    assert "other programs used 0.50 cores" in "\n".join(summary.lines(busy))


@pytest.mark.parametrize("zones", [1, 3])
def test_assumptions_and_the_document(zones: int) -> None:
    written = study(zones)
    document = json.loads(json_text(summary.document(written)))
    assert [item["holds"] for item in document["curve"]] == [True, True, True, False]
    assert document["plan"]["cores"] == written.plan.replicas
    assert document["assumed"] == list(summary.assumed(written))
    assert any(("70% of its highest" if zones == 1 else "without one zone") in line for line in document["assumed"])


def test_the_table_and_the_picture(capsys: pytest.CaptureFixture[str]) -> None:
    summary.table(study()).show()
    shown = capsys.readouterr().out
    assert shown.count("met") == 3
    assert shown.count("missed") == 1
    svg = render.text(summary.picture(study()))
    assert "goal 10 ms" in svg
    assert "900/s" in svg
