"""Tests of `capacity/queueing.py` against results of queueing theory, and against arithmetic by hand."""

import math

import numpy as np
import pytest

from kanserve.contrib.capacity import generator, queueing
from kanserve.contrib.capacity.measure import Curve
from kanserve.contrib.capacity.queueing import Replica, Service
from tests.kanserve.contrib.capacity.test_measure import GOAL, at

REQUESTS = 100_000


def error(latency: np.ndarray) -> float:
    """Standard error of the mean of a correlated series, from 40 means of batches."""
    means = [part.mean() for part in np.array_split(latency, 40)]
    return float(np.std(means, ddof=1) / math.sqrt(len(means)))


def test_the_mean_wait_without_batches() -> None:
    """M/D/1 by the formula of Pollaczek and Khinchine."""
    load, seconds = 0.7, 0.001
    due = generator.poisson(load / seconds, 0.0, REQUESTS * seconds / load, np.random.default_rng(3))
    served = Replica(Service(seconds, 0.0, most=1)).advance(due, math.inf)
    assert (len(served.latency), served.rejected) == (len(due), 0)
    latency = served.latency[len(due) // 20 :]
    expected = seconds + load * seconds / (2 * (1 - load))
    assert latency.mean() == pytest.approx(expected, abs=4 * error(latency))
    assert error(latency) < 0.05 * expected


def test_all_waiting_requests_are_one_batch() -> None:
    replica = Replica(Service(1.0, 0.5))
    served = replica.advance(np.array([0.0, 0.1, 0.2, 1.4, 9.0]), 10.0)
    # 0 runs alone until 1.5. The next three run together until 1.5 + 1 + 3 * 0.5 = 4. The last one runs alone.
    assert served.latency == pytest.approx([1.5, 3.9, 3.8, 2.6, 1.5])
    assert replica.busy == pytest.approx(1.5 + 2.5 + 1.5)


def test_a_batch_has_its_most_and_the_queue_its_limit() -> None:
    replica = Replica(Service(1.0, 0.0, most=2, limit=3))
    served = replica.advance(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]), 10.0)
    # 0 runs until 1. Of the five others three may wait. Two of them run until 2, one until 3.
    assert served.rejected == 2
    assert served.latency == pytest.approx([1.0, 1.9, 1.8, 2.7])


def test_a_queue_goes_on_from_step_to_step() -> None:
    service, rng = Service(0.001, 0.0002, most=50, limit=100), np.random.default_rng(1)
    due = generator.poisson(4000.0, 0.0, 2.0, rng)
    whole = Replica(service).advance(due, 2.0)
    parts, replica, rejected = [], Replica(service), 0
    for step in range(20):
        inside = due[(due >= step / 10) & (due < (step + 1) / 10)]
        served = replica.advance(inside, (step + 1) / 10)
        parts.append(served.latency)
        rejected += served.rejected
    assert np.concatenate(parts) == pytest.approx(whole.latency)
    assert rejected == whole.rejected
    assert replica.fail() == len(due) - len(whole.latency) - rejected, "those that wait"
    assert replica.fail() == 0


def test_service_times_are_fitted_from_cpu_times() -> None:
    batch, request, levels = 0.0003, 0.00005, []
    for rate, together in ((100.0, 1.0), (1000.0, 1.4), (5000.0, 4.0)):
        cores = batch * rate / together + request * rate
        levels.append(at(rate, 0.002, server_cores=cores, batches=rate / together))
    service = queueing.fit(Curve(GOAL, levels), most=8, limit=16)
    assert (service.batch, service.request) == (pytest.approx(batch), pytest.approx(request))
    assert (service.most, service.limit, service.extra) == (8, 16, (0.0,))


@pytest.mark.parametrize("batches", [math.nan, 1.0])
def test_without_a_number_of_batches_each_request_costs_the_same(batches: float) -> None:
    levels = [at(rate, 0.002, server_cores=rate * 1e-4, batches=batches * rate) for rate in (100.0, 1000.0)]
    service = queueing.fit(Curve(GOAL, levels), most=8, limit=16)
    assert service.batch + service.request == pytest.approx(1e-4)


def test_the_rest_of_the_latency_is_that_without_load() -> None:
    extra = tuple((0.001 + 0.001 * queueing.QUANTILES).tolist())
    latency = queueing.simulate(Service(1e-6, 0.0, extra), 100.0, 100.0)
    assert np.median(latency) == pytest.approx(0.0015, rel=0.02)
    assert latency.min() >= 0.001
