"""Tests of `capacity/forecast.py`: a plan whose simulation is compared with the curve that it is made from."""

import functools
import json

import numpy as np
import pytest

from kanexport.shared.cli.console import json_text
from kanserve.contrib.capacity import forecast, queueing, sizing
from kanserve.contrib.capacity.forecast import Forecast
from kanserve.contrib.capacity.measure import QUANTILES, Curve, Level
from kanserve.contrib.capacity.queueing import Service
from kanserve.contrib.capacity.sizing import Goal
from tests.kanserve.contrib.capacity.test_measure import GOAL, at
from tests.kanserve.contrib.capacity.test_sizing import MEMORY
from tests.support.tiers import full

TRUE = Service(0.0002, 0.0001, tuple((0.0004 + 0.0002 * QUANTILES).tolist()), most=64, limit=256)


def level(rate: float) -> Level:
    """A measurement of a server that is the model itself."""
    latency = queueing.simulate(TRUE, rate, 10_000 / rate, seed=int(rate))
    replica = queueing.Replica(TRUE)
    replica.advance(queueing.poisson(rate, 0.0, 5.0, np.random.default_rng(1)), 5.0)
    p50, p99 = np.quantile(latency, (0.5, 0.99))
    batches = (replica.busy / 5.0 - TRUE.request * rate) / TRUE.batch
    facts = {"p50": p50, "mean": latency.mean(), "server_cores": replica.busy / 5.0, "batches": batches}
    return at(rate, float(p99), quantiles=tuple(np.quantile(latency, QUANTILES)), **facts)


@functools.cache
def made(zones: int = 3) -> Forecast:
    levels = [level(rate) for rate in (100.0, 1000.0, 3000.0, 5000.0)]
    curve, goal = Curve(GOAL, levels, levels[-1]), Goal(rate=1e6, p99=GOAL, zones=zones, cores=1)
    return forecast.forecast(
        curve, sizing.plan(curve, goal, MEMORY), goal, most=64, limit=256, pod_start=20.0, budget=150_000
    )


def test_a_model_of_itself_has_no_error() -> None:
    written = made()
    assert written.service.batch == pytest.approx(TRUE.batch, rel=0.05)
    assert written.service.request == pytest.approx(TRUE.request, rel=0.05)
    assert len(written.checks) == 4
    for check in written.checks:
        assert check.simulated_p50 == pytest.approx(check.p50, rel=0.06)
        assert check.simulated_p99 == pytest.approx(check.p99, rel=0.12)


def test_the_plan_meets_the_goal_without_a_zone(capsys: pytest.CaptureFixture[str]) -> None:
    written = made()
    document = json.loads(json_text(forecast.document(written)))
    phases = {phase["phase"]: phase for phase in document["phases"]}
    assert phases["zone lost"]["p99"] <= GOAL
    assert phases["zone lost"]["rejected"] == 0
    assert document["requests"] == pytest.approx(1.08e9, rel=0.05)
    assert document["lost"] == pytest.approx(1e6 * 5 / 3, rel=0.05)
    assert phases["day"]["ready_last"] > phases["night"]["ready_last"]
    forecast.phases_table(written).show()
    forecast.checks_table(written).show()
    assert "zone lost" in capsys.readouterr().out
    assert "at most 256 requests wait" in "\n".join(forecast.assumed(written))


@full("combination")
def test_one_zone_is_not_lost() -> None:
    written = made(zones=1)
    assert written.failed("lost") == 0
    assert not written.result.of_phase("zone lost")
