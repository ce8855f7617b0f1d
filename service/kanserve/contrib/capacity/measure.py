"""Latency at rising rates: the search for the highest rate at which the p99 meets a goal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kanserve.contrib.capacity.generator import Sent

FIRST_SHARE = 0.2  # of the capacity that the first latency suggests
FIRST_MOST = 500.0  # requests per second
FEW, ENOUGH = 0.8, 1.5  # seconds of a window, while the rate rises and afterwards
REQUESTS = 300  # of a window at a low rate
LONGEST = 4.0  # seconds of such a window
FINAL = 3.0  # seconds of the window that confirms the result
WHOLE = 30.0  # seconds of a measurement with these windows; a shorter one has shorter windows
CLOSE = 1.06  # ratio of the lowest bad rate to the highest good rate at which the search ends
BACK = 0.94  # step down if the confirmation fails
DELIVERED = 0.97  # achieved rate relative to the arrivals
OVERLOADED = 0.8  # such a ratio, below which a window is not repeated
TRIES = 3  # windows of one rate, if only the tail of the latency misses the goal
TAIL = 0.5  # p50 relative to the goal, below which only the tail misses it
LATE = 0.25  # lag of the generator relative to the goal, above which a missed window says nothing of the server
BUSY = 0.85  # CPU use of the cores from which a process counts as the limit
QUANTILES = np.linspace(0.0, 1.0, 201)  # of the latency, that a level keeps
GENERATOR, SERVER, LATENCY = "generator", "server", "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Measurement at one rate. Times are in seconds, rates in requests per second.

    offered        mean rate of the arrivals
    achieved       rate of the successful responses. If they end later after the last arrival than the mean latency, the
                   server was still working off a queue, and this time counts too
    completed      successful responses per second of the time in which the CPU time was measured
    count          number of arrivals
    p50, p99       quantiles of the latency of successful requests; infinity without one
    mean           mean latency
    rejected       requests with an error status
    lost           requests without a response
    server_cores   CPU time of the server per second; NaN if unknown
    generator_cores  the same of the generator
    lag            p99 of the time by which the generator sent a request late
    other_cores    the same of other programs on the machine, if the server is on it; NaN if unknown
    batches        executions of the graph per second; NaN if unknown
    quantiles      latency at `QUANTILES`; empty without a successful request
    """

    offered: float
    achieved: float
    completed: float
    count: int
    p50: float
    p99: float
    mean: float
    rejected: int
    lost: int
    server_cores: float
    generator_cores: float
    lag: float
    other_cores: float = math.nan
    batches: float = math.nan
    quantiles: tuple[float, ...] = ()

    def overloaded(self, goal: float) -> bool:
        """Whether more than the tail of the latency misses the goal, or a queue remained."""
        return self.p50 > TAIL * goal or self.achieved < OVERLOADED * self.offered

    def disturbed(self, goal: float) -> bool:
        """Whether the generator was late without being busy, because other programs used its core. If such a level
        misses the goal, the server need not be the reason."""
        return self.lag > LATE * goal and self.generator_cores < BUSY and not self.overloaded(goal)

    def holds(self, goal: float) -> bool:
        """Whether the p99 meets the goal, nearly all requests succeeded, and no queue remained."""
        return self.p99 <= goal and self.achieved >= DELIVERED * self.offered


@dataclass(frozen=True, slots=True)
class Usage:
    """Use of resources so far: CPU seconds of the server and of the machine, and executions of the graph."""

    cpu: float
    machine: float
    batches: float


def level(sent: Sent, before: Usage, after: Usage, seconds: float) -> Level:
    """The measurement at one rate. `seconds`: time between `before` and `after`."""
    good = sent.status == 0
    latency = sent.latency[good]
    p50, p99 = np.quantile(latency, (0.5, 0.99)) if len(latency) else (math.inf, math.inf)
    lag = sent.lag[np.isfinite(sent.lag)]
    mean = float(latency.mean()) if len(latency) else math.inf
    count, span = len(sent.due), max(sent.seconds, 1e-9)
    ends = (sent.due + sent.latency)[good]
    # CPU seconds of other programs; NaN if those of the server are unknown.
    difference = after.machine - before.machine - (after.cpu - before.cpu) - sent.cpu
    return Level(
        offered=count / span,
        achieved=int(good.sum()) / (span + (max(0.0, float(ends.max()) - span - mean) if len(latency) else 0.0)),
        completed=int(good.sum()) / seconds,
        count=count,
        p50=float(p50),
        p99=float(p99),
        mean=mean,
        rejected=int((sent.status > 0).sum()),
        lost=int((sent.status < 0).sum()),
        server_cores=(after.cpu - before.cpu) / seconds,
        generator_cores=sent.cpu / seconds,
        lag=float(np.quantile(lag, 0.99)) if len(lag) else math.inf,
        other_cores=(max(0.0, difference) if math.isfinite(difference) else math.nan) / seconds,
        batches=(after.batches - before.batches) / seconds,
        quantiles=tuple(np.quantile(latency, QUANTILES).tolist()) if len(latency) else (),
    )


Measure = Callable[[float, float], Level]  # of a rate and a duration in seconds
Report = Callable[[float, str], None]  # seconds so far, and the work in words


@dataclass(slots=True)
class Curve:
    """Measured curve.

    floor   the level at the lowest rate
    best    the level at the highest rate that met the goal, confirmed by a longer window; None if no rate met it
    levels  all levels, in the order of their measurement
    """

    goal: float
    levels: list[Level] = field(default_factory=list)
    best: Level | None = None

    @property
    def floor(self) -> Level:
        """Level at the lowest rate."""
        return min(self.levels, key=lambda item: item.offered)

    @property
    def other_cores(self) -> float:
        """Cores that other programs used, on average over the levels; 0 if unknown."""
        known = [item.other_cores for item in self.levels if math.isfinite(item.other_cores)]
        return sum(known) / len(known) if known else 0.0

    def bad(self) -> list[Level]:
        """Levels that did not meet the goal."""
        return [item for item in self.levels if not item.holds(self.goal)]

    def limit(self, cores: float) -> str:
        """The reason why higher rates do not meet the goal. `cores`: of the server.

        The generator, if it used its core; the server, if it used its cores; otherwise only the latency.
        """
        above = [item for item in self.bad() if self.best is None or item.offered > self.best.offered]
        last = min(above, key=lambda item: item.offered) if above else max(self.levels, key=lambda item: item.offered)
        if last.generator_cores >= BUSY and not last.server_cores >= BUSY * cores:
            return GENERATOR
        return SERVER if last.server_cores >= BUSY * cores else LATENCY


def search(measure: Measure, goal: float, seconds: float, report: Report, *, latency: float) -> Curve:
    """The curve, measured within about `seconds`. Rates double until the p99 exceeds the goal, then the interval is
    halved. If only the tail of the latency misses the goal, the window is repeated, because another program may have
    disturbed it.

    latency  seconds of one request without load
    """
    return _Search(measure, goal, seconds, report).run(latency)


class _Search:
    def __init__(self, measure: Measure, goal: float, seconds: float, report: Report) -> None:
        self._measure, self._report = measure, report
        self._begun, self._seconds = time.monotonic(), seconds
        self._scale = min(1.0, seconds / WHOLE)
        self._curve = Curve(goal)

    def _left(self) -> float:
        return self._seconds - (time.monotonic() - self._begun)

    def _holds(self, rate: float, seconds: float) -> Level:
        """The level: the first of several windows that meets the goal, otherwise the last. Windows are repeated if only
        the tail misses the goal."""
        goal = self._curve.goal
        for _ in range(TRIES):
            # Measure one window; longer than `seconds` at a low rate.
            length = self._scale * min(max(seconds, REQUESTS / rate), max(LONGEST, seconds))
            self._report(self._seconds - self._left(), f"{rate:,.0f} requests/s")
            item = self._measure(rate, length)
            self._curve.levels.append(item)
            overloaded = item.overloaded(goal) and len(self._curve.levels) > TRIES  # the first ones may be disturbed
            if item.holds(goal) or overloaded or self._left() <= 0:
                break
        return item

    def run(self, latency: float) -> Curve:
        """Rise, halve, confirm."""
        good, bad = self._rise(min(FIRST_MOST, max(1.0, FIRST_SHARE / max(latency, 1e-6))))
        if good is None:
            return self._curve
        goal = self._curve.goal
        while math.isfinite(bad) and bad / good.offered > CLOSE and self._reserve():
            middle = math.sqrt(bad * good.offered)
            item = self._holds(middle, ENOUGH)
            good, bad = (item, bad) if item.holds(goal) else (good, middle)
        # Measure the result again in a longer window, and lower it until it meets the goal.
        rate = good.offered
        while self._left() > 0:
            item = self._holds(rate, FINAL)
            if item.holds(goal):
                self._curve.best = item
                return self._curve
            rate *= BACK
        known = [item for item in self._curve.levels if item.holds(goal) and item.offered <= rate]
        self._curve.best = max(known, key=lambda item: item.offered, default=None)
        return self._curve

    def _reserve(self) -> bool:
        """Whether more time is left than the confirmation needs."""
        return self._left() > 2 * FINAL * self._scale

    def _rise(self, rate: float) -> tuple[Level | None, float]:
        """Double the rate until it misses the goal; the best level, and the rate that missed it. A disturbed window is
        not a miss."""
        goal, good = self._curve.goal, None
        while good is None or self._reserve():
            item = self._holds(rate, FEW if good else ENOUGH)
            if item.holds(goal):
                good = item
            elif not item.disturbed(goal) or self._left() <= 0:
                return good, rate
            rate = 2 * max(rate, item.offered)
        return good, math.inf
