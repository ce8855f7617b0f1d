"""Tests of `capacity/fleet.py`: the autoscaler, pods and zones."""

import dataclasses

import numpy as np
import pytest

from kanserve.contrib.capacity import fleet
from kanserve.contrib.capacity.fleet import Autoscaler, Phase, Pods, Setup, Step
from kanserve.contrib.capacity.queueing import Service

SERVICE = Service(0.0004, 0.0001, (0.0002,), most=64, limit=256)
SETUP = Setup(rate=100_000.0, zones=3, target=0.6, load=1.0, least=3, most=200, pod_start=20.0)
STEADY = (Phase("steady", 60.0, 1.0, 1.0),)


def test_the_autoscaler_follows_the_formula_of_kubernetes() -> None:
    scaler = Autoscaler(SETUP, 10)
    assert scaler.decide(0, 0.65, 10) == 10, "within the tolerance"
    assert scaler.decide(15, 0.9, 10) == 15, "ceil(10 * 0.9 / 0.6)"
    assert scaler.decide(30, 3.0, 15) == 30, "at most twice"
    assert scaler.decide(45, 0.3, 30) == 30, "the largest advice of the last 300 s counts"
    assert scaler.decide(30 + 300, 0.3, 30) == 30, "the advice of 30 s is included"
    assert scaler.decide(45 + 300, 0.3, 30) == 15
    assert Autoscaler(SETUP, 3).decide(0, 2.0, 3) == 7, "at most four pods more, if that is more than twice"
    assert Autoscaler(SETUP, 190).decide(0, 0.9, 190) == 200, "the upper limit"
    # Pods without a metric count as idle. After the loss of a third, the others have 3/2 of the load.
    assert Autoscaler(SETUP, 30).decide(0, 0.9, 20) == 30
    assert Autoscaler(SETUP, 30).decide(0, 0.9, 30) == 45


def test_pods_start_and_stop() -> None:
    pods = Pods(10)
    pods.scale(14, 20.0)
    pods.advance(19.0)
    assert pods.ready == 10
    pods.scale(12, 25.0)
    assert pods.starting == [(20.0, 2)]
    pods.advance(20.0)
    assert pods.ready == 12
    pods.scale(5, 30.0)
    assert (pods.ready, pods.starting) == (5, [])
    pods.lost, pods.ready = 2, 3
    pods.scale(5, 40.0)
    assert pods.starting == [], "lost pods exist until they are evicted"


def test_the_rate_of_a_phase_goes_from_its_start_to_its_end() -> None:
    steps = list(fleet.rates((Phase("a", 20.0, 0.0, 1.0), Phase("b", 10.0, 1.0, 1.0, zone_lost=True)), 1000.0))
    assert [rate for _, rate, _ in steps] == [125.0, 375.0, 625.0, 875.0, 1000.0, 1000.0]
    assert [lost for _, _, lost in steps] == [False] * 4 + [True, False]


def test_a_budget_bounds_the_requests_that_are_simulated() -> None:
    fixed = dataclasses.replace(SETUP, rate=5_000.0, most=6, least=6)
    part = fleet.simulate(SERVICE, fixed, 6, phases=STEADY, budget=60_000)
    assert part.share == pytest.approx(0.2)
    assert sum(len(step.latency) for step in part.steps) == pytest.approx(60_000, rel=0.02)


def test_a_scenario_grows_loses_a_zone_and_recovers() -> None:
    result = fleet.simulate(SERVICE, SETUP, 15, budget=200_000)
    day, lost, after = (result.of_phase(name) for name in ("day", "zone lost", "pods replaced"))
    assert day[-1].ready > result.steps[0].ready
    assert lost[0].ready == pytest.approx(day[-1].ready * 2 / 3, abs=1)
    assert lost[0].lost >= 1 / 3
    assert sum(step.lost for step in lost[1:]) == 0
    assert lost[-1].ready == lost[0].ready, "no pod is replaced before its node is given up"
    assert after[-1].ready >= day[-1].ready
    assert lost[5].cpu > day[-1].cpu


def test_an_overload_is_rejected() -> None:
    fixed = dataclasses.replace(SETUP, most=6, least=6)
    result = fleet.simulate(SERVICE, fixed, 6, phases=STEADY, budget=300_000)
    capacity = SERVICE.most / (SERVICE.batch + SERVICE.request * SERVICE.most)
    expected = 1 - 6 * capacity / SETUP.rate
    assert np.mean([step.rejected for step in result.steps[2:]]) == pytest.approx(expected, abs=0.05)
    assert result.steps[-1].cpu == pytest.approx(1.0, abs=0.02)


def test_steps_count_by_their_rates() -> None:
    def step(rate: float, latency: list[float]) -> Step:
        facts = {"phase": "", "seconds": 0.0, "ready": 1, "wanted": 1, "cpu": 0.0, "rejected": 0.0, "lost": 0.0}
        return Step(rate=rate, latency=np.array(latency), **facts)  # type: ignore[arg-type] # the facts of this test

    assert fleet.quantile([step(9.0, [1.0]), step(1.0, [2.0] * 50)], 0.8) == 1.0
    assert fleet.quantile([step(1.0, [1.0]), step(9.0, [2.0] * 50)], 0.5) == 2.0
    assert np.isnan(fleet.quantile([], 0.5))
