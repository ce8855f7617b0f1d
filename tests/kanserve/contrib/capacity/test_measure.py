"""Tests of `capacity/measure.py`: the search, on servers whose capacity is known."""

import math

import numpy as np
import pytest

from kanserve.contrib.capacity import measure
from kanserve.contrib.capacity.generator import LOST, Sent
from kanserve.contrib.capacity.measure import Curve, Level, Usage

GOAL = 0.01


def at(rate: float, p99: float, **other: float) -> Level:
    facts = {"p50": p99 / 4, "mean": p99 / 4, "rejected": 0, "lost": 0, "lag": 0.0, "generator_cores": 0.1}
    facts |= {"offered": rate, "achieved": rate, "completed": rate, "count": 1000, "server_cores": rate / 1000} | other
    return Level(p99=p99, **facts)  # type: ignore[arg-type] # the facts of this test


class Server:
    """A p99 that grows without bound at the capacity. `spoiled`: numbers of windows with a disturbance."""

    def __init__(self, capacity: float, spoiled: tuple[int, ...] = ()) -> None:
        self.capacity, self.spoiled, self.rates = capacity, spoiled, list[float]()

    def measure(self, rate: float, seconds: float) -> Level:
        self.rates.append(rate)
        free = 1 - rate / self.capacity
        p99 = 0.002 + (0.001 / free if free > 0 else math.inf)
        return at(rate, p99, p50=p99 / 8) if len(self.rates) not in self.spoiled else at(rate, 1.0, p50=0.001)


def search(server: Server, seconds: float = 1e9) -> Curve:
    return measure.search(server.measure, GOAL, seconds, lambda done, place: None, latency=0.001)


@pytest.mark.parametrize("capacity", [700.0, 5000.0, 123_456.0])
def test_the_search_finds_the_rate_at_which_the_goal_holds(capacity: float) -> None:
    server = Server(capacity)
    curve = search(server)
    right = capacity * (1 - 0.001 / (GOAL - 0.002))
    assert curve.best is not None
    assert right / measure.CLOSE <= curve.best.offered <= right
    assert curve.best is curve.levels[-1], "confirmed by the last window"
    assert len(server.rates) < 40


def test_a_disturbed_window_is_repeated() -> None:
    calm, disturbed = search(Server(5000.0)), search(Server(5000.0, spoiled=(1, 4, 5)))
    assert calm.best is not None
    assert disturbed.best is not None
    assert disturbed.best.offered == pytest.approx(calm.best.offered, rel=0.1)


def test_a_goal_below_the_floor_has_no_rate() -> None:
    curve = measure.search(Server(5000.0).measure, 0.001, 1e9, lambda done, place: None, latency=0.001)
    assert curve.best is None
    assert curve.floor.p99 > 0.001


def test_without_time_the_best_known_rate_counts() -> None:
    curve = search(Server(5000.0), seconds=0.0)
    assert curve.best is not None
    assert curve.best.holds(GOAL)


def test_the_limit_is_the_process_that_used_its_core() -> None:
    levels = [at(500.0, 0.005), at(900.0, 0.5, generator_cores=0.95, server_cores=0.5)]
    curve = Curve(GOAL, levels, levels[0])
    assert curve.limit(1) == measure.GENERATOR
    curve.levels[1] = at(900.0, 0.5, server_cores=0.9)
    assert (curve.limit(1), curve.limit(2)) == (measure.SERVER, measure.LATENCY)


def test_a_level_counts_what_failed() -> None:
    due, latency = np.linspace(0, 1, 101), np.full(101, 0.01)
    status = np.zeros(101, np.int64)
    status[:10], status[10:15] = 14, LOST
    latency[10:15] = np.nan
    latency[100] = 0.05
    sent = Sent(due, latency, np.zeros(101), status, 0.25, 1.0)
    item = measure.level(sent, Usage(1.0, 10.0, 5.0), Usage(1.5, 11.0, 55.0), 1.0)
    assert (item.count, item.rejected, item.lost, item.offered) == (101, 10, 5, 101.0)
    assert (item.server_cores, item.generator_cores, item.other_cores, item.batches) == (0.5, 0.25, 0.25, 50.0)
    assert item.p50 == pytest.approx(0.01)
    assert item.p99 == pytest.approx(np.quantile(latency[15:], 0.99))
    assert item.completed == 86.0
    assert item.achieved == pytest.approx(86 / (1.05 - latency[15:].mean()))
    assert not item.holds(1.0), "15 of 101 failed"
    nothing = Sent(due, np.full(101, np.nan), np.full(101, np.nan), np.full(101, LOST), 0.25, 1.0)
    unknown = measure.level(nothing, Usage(math.nan, math.nan, math.nan), Usage(1.0, 2.0, 3.0), 1.0)
    assert (unknown.p99, unknown.achieved) == (math.inf, 0.0)
    assert math.isnan(unknown.other_cores)


def test_a_queue_that_remains_is_no_rate_that_holds() -> None:
    """A window may be too short for a long wait. At twice the capacity of 1000 requests/s, 0.1 s is."""
    due = np.arange(200) / 2000.0
    ends = np.arange(1, 201) / 1000.0
    none = Usage(0.0, 0.0, 0.0)
    item = measure.level(Sent(due, ends - due, due * 0, np.zeros(200, np.int64), 0.0, 0.1), none, none, 1.0)
    assert item.p99 < GOAL * 20
    assert not item.holds(GOAL * 20)
    calm = measure.level(Sent(due, due * 0 + 0.05, due * 0, np.zeros(200, np.int64), 0.0, 0.1), none, none, 1.0)
    assert calm.holds(GOAL * 20)


def test_a_disturbed_generator_does_not_end_the_search() -> None:
    """The generator is late at the first rates, so their tails say nothing of the server."""
    server, late = Server(5000.0), dict.fromkeys(range(1, 8), 0.006)

    def measured(rate: float, seconds: float) -> Level:
        item = server.measure(rate, seconds)
        lag = late.get(len(server.rates), 0.0)
        return at(rate, item.p99 + 3 * lag, p50=0.001, lag=lag) if lag else item

    curve = measure.search(measured, GOAL, 1e9, lambda done, place: None, latency=0.001)
    assert curve.best is not None
    assert curve.best.offered > 4000
