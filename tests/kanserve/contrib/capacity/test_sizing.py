"""Tests of `capacity/sizing.py`: arithmetic of plans, and values that the chart accepts."""

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from kanserve.contrib.capacity import sizing
from kanserve.contrib.capacity.http2 import CapacityError
from kanserve.contrib.capacity.measure import Curve
from kanserve.contrib.capacity.sizing import MEBIBYTE, Goal, Memory
from tests.kanserve.contrib.capacity.test_measure import GOAL, at
from tests.support import helm_chart

MEMORY = Memory(100 * MEBIBYTE, 2 * MEBIBYTE, 256 * MEBIBYTE)


def curve(**other: float) -> Curve:
    levels = [at(rate, 0.004 + rate * 1e-6, mean=0.002) for rate in (100.0, 500.0, 900.0)]
    levels.append(at(1000.0, 0.5, **other))
    return Curve(GOAL, levels, levels[2])


def goal(rate: float = 50_000.0, zones: int = 3, cores: int = 1) -> Goal:
    return Goal(rate=rate, p99=GOAL, zones=zones, cores=cores)


@pytest.mark.parametrize("rate", [1.0, 899.0, 900.0, 901.0, 50_000.0, 1e6])
def test_without_one_zone_the_others_have_the_rate(rate: float) -> None:
    for zones in (2, 3, 5):
        count = sizing.replicas(rate, 900.0, zones)
        assert count % zones == 0
        assert rate <= (count - count // zones) * 900.0 + 1e-6
        fewer = count - zones
        assert fewer == 0 or rate > (fewer - fewer // zones) * 900.0, "one replica less in each zone is too few"
    single = sizing.replicas(rate, 900.0, 1)
    assert single >= 2
    assert rate / single <= sizing.SINGLE_ZONE * 900.0 + 1e-6


def test_a_plan_has_the_figures_of_the_curve() -> None:
    plan = sizing.plan(curve(), goal(), MEMORY)
    assert (plan.rate, plan.replicas, plan.lower_bound) == (900.0, 84, False)
    assert plan.share == pytest.approx(50_000 / 84 / 900)
    # Without a zone, a replica has 3/2 of its load, and the autoscaler tolerates 10% more than its threshold.
    assert (plan.threshold_rate, plan.cpu_percent) == (pytest.approx(600.0 / 1.1), 54)
    assert plan.inflight == pytest.approx(600 / 1.1 * 0.002)  # Little's law
    assert plan.cores_per_rate == pytest.approx(1e-3)
    assert sizing.plan(curve(generator_cores=1.0, server_cores=0.5), goal(), MEMORY).lower_bound
    assert plan.memory_request == 128 * MEBIBYTE
    assert plan.memory_limit == 448 * MEBIBYTE  # 125 + 10 + 256, rounded up


def test_an_unknown_cpu_time_leaves_the_default_of_the_chart() -> None:
    levels = [at(rate, 0.004, server_cores=math.nan) for rate in (100.0, 900.0)]
    plan = sizing.plan(Curve(GOAL, levels, levels[1]), goal(), MEMORY)
    assert (plan.cpu_percent, plan.cpu_measured) == (70, False)
    assert yaml.safe_load((helm_chart.CHART / "values.yaml").read_text())["autoscaling"]["hpa"]["cpuPercent"] == 70


def test_an_impossible_goal_says_the_floor() -> None:
    with pytest.raises(CapacityError, match="p99 is 50 ms at 100 requests/s, almost without load") as caught:
        sizing.plan(Curve(GOAL, [at(100.0, 0.05)]), goal(), MEMORY)
    assert (caught.value.code, "--p99 100ms" in caught.value.hint) == ("capacity-goal-below-floor", True)
    for p99, rejected in ((math.inf, 20), (0.05, 600), (math.inf, 1000)):
        with pytest.raises(CapacityError, match=f"{rejected} of 1000 requests were rejected, and 0 had no") as caught:
            sizing.plan(Curve(GOAL, [at(100.0, p99, rejected=rejected)]), goal(), MEMORY)
        assert caught.value.code == "capacity-requests-failed"
    with pytest.raises(
        CapacityError, match=r"load, 90 requests/s succeeded: 100 of 1000 were rejected, 0 had"
    ) as caught:
        sizing.plan(Curve(GOAL, [at(100.0, GOAL / 2, achieved=90.0, rejected=100)]), goal(), MEMORY)
    assert caught.value.code == "capacity-floor-not-reached"
    late = at(100.0, 0.05, p50=0.001, lag=0.04, other_cores=1.5)
    with pytest.raises(
        CapacityError, match=r"up to 40 ms late \(p99\), because other programs used 1.5 cores"
    ) as caught:
        sizing.plan(Curve(GOAL, [late]), goal(), MEMORY)
    assert caught.value.code == "capacity-disturbed"


def keys(document: dict[str, Any], start: str = "") -> set[str]:
    """Paths of all mappings and values."""
    paths = set()
    for name, value in document.items():
        paths |= {f"{start}{name}"} | (keys(value, f"{start}{name}.") if isinstance(value, dict) else set())
    return paths


def test_the_values_are_keys_of_the_chart_and_fit_its_schema() -> None:
    plan = sizing.plan(curve(), goal(), MEMORY)
    written = yaml.safe_load("\n".join(sizing.yaml(sizing.helm_values(plan, goal()))))
    assert written == sizing.helm_values(plan, goal())
    defaults = yaml.safe_load((helm_chart.CHART / "values.yaml").read_text())
    assert keys(written) <= keys(defaults)
    schema = json.loads(Path(helm_chart.CHART / "values.schema.json").read_text())
    jsonschema.validate(written, schema)
