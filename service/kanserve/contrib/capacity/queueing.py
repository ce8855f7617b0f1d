"""Simulation of one replica: a queue whose waiting requests run as one batch, as in `scheduling`.

If the server is free, it takes all waiting requests, at most `most`, and serves them in `batch + request * count`
seconds. Requests that arrive meanwhile form the next batch. A request that finds `limit` others waiting is rejected.
The two times are fitted from CPU times of a measured curve. `extra` is the rest of the latency without load: network,
wake-up, client.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kanserve.contrib.capacity.generator import Floats, poisson
from kanserve.contrib.capacity.measure import QUANTILES, Curve, Level

LOW = 1 / 3  # rate relative to the highest one, up to which the wait for other requests is short


@dataclass(frozen=True, slots=True)
class Service:
    """Service times of a replica.

    batch, request  seconds of each batch, and of each request in it
    extra           quantiles of the rest of the latency, at `QUANTILES`, in seconds; one value: constant
    most            requests of a batch
    limit           requests that wait; more are rejected
    """

    batch: float
    request: float
    extra: tuple[float, ...] = (0.0,)
    most: int = 10**9
    limit: int = 10**9

    def extras(self, count: int, rng: np.random.Generator) -> Floats:
        """Random values of the rest of the latency [count]."""
        if len(self.extra) == 1:
            return np.full(count, self.extra[0])
        return np.interp(rng.random(count), QUANTILES, self.extra)


@dataclass(slots=True)
class Served:
    """Requests of one step: latencies in seconds without the extra part, and the number of rejected ones."""

    latency: Floats
    rejected: int


@dataclass(slots=True)
class Replica:
    """Queue of one replica. Its clock goes on from step to step.

    busy  seconds in which a batch ran
    """

    service: Service
    busy: float = 0.0
    _free: float = 0.0  # time at which the last batch ends
    _waiting: list[float] = field(default_factory=list)

    def advance(self, arrivals: Floats, until: float) -> Served:
        """Serve these requests and those that wait, in all batches that begin before `until`. `arrivals`: times [n]
        before `until`, ascending."""
        service, times, at = self.service, arrivals.tolist(), 0
        waiting, latency, rejected = self._waiting, list[float](), 0
        while waiting or at < len(times):
            start = max(self._free, waiting[0] if waiting else times[at])
            end = bisect_right(times, min(start, until), at)
            room = max(0, service.limit - len(waiting))
            waiting.extend(times[at : min(end, at + room)])
            rejected += max(0, end - at - room)
            at = end
            if start >= until:
                break
            count = min(len(waiting), service.most)
            seconds = service.batch + service.request * count
            self.busy += seconds
            self._free = start + seconds
            latency.extend([self._free - time for time in waiting[:count]])
            del waiting[:count]
        return Served(np.array(latency), rejected)

    def fail(self) -> int:
        """Lose all requests that wait; their number."""
        count = len(self._waiting)
        self._waiting.clear()
        return count


def simulate(service: Service, rate: float, seconds: float, seed: int = 0) -> Floats:
    """Latencies of the requests that succeed [n], at a constant mean rate, without the first tenth of the time."""
    rng = np.random.default_rng(seed)
    replica = Replica(service)
    first = poisson(rate, 0.0, 0.1 * seconds, rng)
    replica.advance(first, 0.1 * seconds)
    served = replica.advance(poisson(rate, 0.1 * seconds, seconds, rng), seconds)
    return served.latency + service.extras(len(served.latency), rng)


def fit(curve: Curve, *, most: int, limit: int) -> Service:
    """Service times that explain the CPU times of all levels: CPU per second = batch * batches per second + request *
    responses per second, by least squares. Levels with too high a rate have the largest batches.

    With several cores, the times are divided by the largest number of cores that the server used. Without the number of
    batches, each request costs the same. The rest of the latency is that of a low rate, in the least disturbed window.
    """
    levels = [item for item in curve.levels if item.completed > 0 and item.server_cores > 0]
    batch, request = _fitted(levels)
    batch, request = batch / speed(curve), request / speed(curve)
    good = [item for item in curve.levels if item.holds(curve.goal)]
    low = LOW * max((item.offered for item in good), default=0.0)
    calm = min((item for item in good if item.offered <= low), key=lambda item: item.p99, default=curve.floor)
    extra = tuple(max(0.0, value - batch - request) for value in calm.quantiles) or (0.0,)
    return Service(batch, request, extra, most, limit)


def speed(curve: Curve) -> float:
    """Cores that the server uses under load, at least 1."""
    return max([1.0, *(item.server_cores for item in curve.levels if item.holds(curve.goal))])


def _fitted(levels: Sequence[Level]) -> tuple[float, float]:
    """CPU seconds of a batch and of a request, neither negative."""
    if not levels:
        return 0.0, 0.0
    rates = np.array([item.completed for item in levels])
    cores = np.array([item.server_cores for item in levels])
    batches = np.array([item.batches if math.isfinite(item.batches) else 0.0 for item in levels])
    # NOTE: absolute errors. At a low rate, a batch takes longer: caches are cold and threads have to wake up.
    (batch, request), *_ = np.linalg.lstsq(np.stack([batches, rates], axis=1), cores, rcond=None)
    if request < 0 and batch > 0:
        return float(batches @ cores / (batches @ batches)), 0.0
    if batch <= 0:
        return 0.0, float(rates @ cores / (rates @ rates))
    return float(batch), float(request)
