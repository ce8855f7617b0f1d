"""Simulation of a fleet: random arrivals, batches, an autoscaler with its delays, and a lost zone.

Each replica gets a random share of all requests, so its arrivals are a Poisson process of the rate divided by the
number of replicas. The simulation serves the requests of a few sampled replicas, and only a part of each step. The
number of replicas, the rate and the autoscaler are those of the whole fleet. A test compares this with a simulation of
all requests.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kanserve.contrib.capacity.generator import Floats, poisson
from kanserve.contrib.capacity.queueing import Replica, Service
from kanserve.contrib.capacity.sizing import TOLERANCE

STEP = 5.0  # seconds
SYNC = 15.0  # seconds between two decisions of the autoscaler; the default of Kubernetes
DOUBLE, PODS = 2.0, 4  # largest growth within `SYNC`: twice, or by four pods; the default of Kubernetes
SCALE_DOWN = 300.0  # seconds of stabilization; the default of Kubernetes and of the chart
EVICTION = 300.0  # seconds after which Kubernetes replaces the pods of lost nodes
DETECTION = 5.0  # seconds until requests avoid the pods of a lost zone
SAMPLED = 2  # replicas per zone
BUDGET = 600_000  # requests that are served
LOW, HIGH = 0.5, 1.3  # rate at night and in a burst, relative to the rate of the goal


@dataclass(frozen=True, slots=True)
class Phase:
    """Part of a scenario. The rate, relative to that of the goal, goes from `start` to `end`.

    zone_lost  whether a zone fails at the begin
    """

    name: str
    seconds: float
    start: float
    end: float
    zone_lost: bool = False


SCENARIO = (
    Phase("night", 120.0, LOW, LOW),
    Phase("morning", 300.0, LOW, 1.0),
    Phase("day", 120.0, 1.0, 1.0),
    Phase("zone lost", EVICTION, 1.0, 1.0, zone_lost=True),
    Phase("pods replaced", 180.0, 1.0, 1.0),
    Phase("burst", 60.0, HIGH, HIGH),
    Phase("after the burst", 120.0, 1.0, 1.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A fleet.

    rate         requests per second at the full rate
    zones        zones; the replicas are spread evenly
    target       CPU use of a replica at which the autoscaler keeps it, relative to its cores
    load         CPU use of a replica relative to the share of time in which it runs a batch
    least, most  limits of the autoscaler
    pod_start    seconds until a new pod is ready
    """

    rate: float
    zones: int
    target: float
    load: float
    least: int
    most: int
    pod_start: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """State of the fleet in one step. `ready`: replicas that serve; `wanted`: replicas that the autoscaler requested.
    `rejected` and `lost` are shares of the requests."""

    phase: str
    seconds: float
    rate: float
    ready: int
    wanted: int
    cpu: float
    rejected: float
    lost: float
    latency: Floats


@dataclass(frozen=True, slots=True)
class Result:
    """Steps of a simulation, the part of each step that was served, and the number of sampled replicas."""

    steps: list[Step]
    share: float
    sampled: int

    def of_phase(self, name: str) -> list[Step]:
        """Steps of one phase."""
        return [step for step in self.steps if step.phase == name]


def quantile(steps: Sequence[Step], share: float) -> float:
    """Quantile of the latency over steps. Each step counts by its rate. NaN without a request."""
    values = [step.latency for step in steps if len(step.latency)]
    if not values:
        return math.nan
    weights = [np.full(len(step.latency), step.rate / len(step.latency)) for step in steps if len(step.latency)]
    latency, weight = np.concatenate(values), np.concatenate(weights)
    order = np.argsort(latency)
    total = np.cumsum(weight[order])
    at = min(int(np.searchsorted(total, share * total[-1])), len(latency) - 1)
    return float(latency[order][at])


def rates(phases: Sequence[Phase], rate: float) -> Iterator[tuple[Phase, float, bool]]:
    """Phase, rate, and whether a zone fails, by step."""
    for phase in phases:
        count = max(1, round(phase.seconds / STEP))
        for at in range(count):
            share = phase.start + (phase.end - phase.start) * (at + 0.5) / count
            yield phase, share * rate, phase.zone_lost and at == 0


class Autoscaler:
    """HorizontalPodAutoscaler on CPU: replicas = ceil(replicas * use / target), with tolerance, limits of growth and
    stabilization. Pods without a metric count as idle when it would add pods, as in Kubernetes."""

    def __init__(self, setup: Setup, wanted: int) -> None:
        self._setup, self.wanted = setup, wanted
        self._advice: deque[tuple[float, int]] = deque()

    def decide(self, now: float, use: float, ready: int) -> int:
        """New number of replicas. `use`: mean CPU use of the ready ones, relative to their cores."""
        setup = self._setup
        ratio = use / setup.target
        if ratio > 1:
            ratio = max(1.0, ratio * min(1.0, ready / self.wanted))
        advice = self.wanted if abs(ratio - 1) <= TOLERANCE else math.ceil(self.wanted * ratio - 1e-9)
        self._advice.append((now, advice))
        while self._advice[0][0] < now - SCALE_DOWN:
            self._advice.popleft()
        stable = max(count for _, count in self._advice)
        next_count = advice if advice > self.wanted else min(self.wanted, stable)
        grown = max(DOUBLE * self.wanted, self.wanted + PODS)
        self.wanted = int(min(max(next_count, setup.least), setup.most, grown))
        return self.wanted


@dataclass(slots=True)
class Pods:
    """Numbers of pods: ready, starting (with the time at which they are ready), and lost with their zone."""

    ready: int
    lost: int = 0
    starting: list[tuple[float, int]] = field(default_factory=list)

    def scale(self, wanted: int, ready_at: float) -> None:
        """Start or stop pods, so that `wanted` exist."""
        change = wanted - self.ready - self.lost - sum(count for _, count in self.starting)
        if change > 0:
            self.starting.append((ready_at, change))
        while change < 0 and self.starting:
            at, count = self.starting.pop()
            stopped = min(count, -change)
            change += stopped
            if count > stopped:
                self.starting.append((at, count - stopped))
        self.ready += min(0, change)

    def advance(self, now: float) -> None:
        """Pods whose start has ended become ready."""
        self.ready += sum(count for at, count in self.starting if at <= now)
        self.starting = [(at, count) for at, count in self.starting if at > now]


class _Fleet:
    def __init__(self, service: Service, setup: Setup, replicas: int, share: float, seed: int) -> None:
        self._service, self._setup, self._share = service, setup, share
        self.sampled = [Replica(service) for _ in range(SAMPLED * setup.zones)]
        self._lost_at = math.inf
        self._pods, self._scaler = Pods(replicas), Autoscaler(setup, replicas)
        self._clock = 0.0  # of the sampled replicas
        self._use: list[float] = []
        self._rng = np.random.default_rng(seed)

    def step(self, now: float, phase: Phase, rate: float, lost: bool) -> Step:
        pods, setup = self._pods, self._setup
        pods.advance(now)
        if pods.lost and now >= self._lost_at + EVICTION:
            pods.lost = 0
            pods.scale(self._scaler.wanted, now + setup.pod_start)
        gone = 0
        if lost:  # a zone fails, with the requests that wait in its sampled replicas
            self._lost_at, pods.lost = now, pods.ready // setup.zones
            pods.ready -= pods.lost
            gone = sum(replica.fail() for replica in self.sampled[:SAMPLED])
        missed = DETECTION / STEP / setup.zones if lost else 0.0
        live = self.sampled[SAMPLED:] if pods.lost else self.sampled
        start, end = self._clock, self._clock + self._share * STEP
        self._clock = end
        latencies, rejected, busy = [], 0, 0.0
        for replica in live:
            before = replica.busy
            served = replica.advance(poisson(rate / max(1, pods.ready), start, end, self._rng), end)
            latencies.append(served.latency)
            rejected += served.rejected
            busy += (replica.busy - before) / (end - start)
        latency: Floats = np.concatenate(latencies)
        latency = latency + self._service.extras(len(latency), self._rng)
        use = setup.load * min(1.0, busy / len(live))
        self._use.append(use)
        if len(self._use) >= round(SYNC / STEP):
            wanted = self._scaler.decide(now + STEP, float(np.mean(self._use)), pods.ready)
            pods.scale(wanted, now + STEP + setup.pod_start)
            self._use.clear()
        total = len(latency) + rejected + gone
        return Step(
            phase=phase.name,
            seconds=now,
            rate=rate,
            ready=pods.ready,
            wanted=self._scaler.wanted,
            cpu=use,
            rejected=rejected / max(1, total),
            lost=min(1.0, missed + gone / max(1, total)),
            latency=latency,
        )


def simulate(
    service: Service,
    setup: Setup,
    replicas: int,
    *,
    phases: Sequence[Phase] = SCENARIO,
    budget: int = BUDGET,
    seed: int = 0,
) -> Result:
    """Simulate a scenario. `replicas`: at the begin. `budget`: requests that are served, about."""
    steps = list(rates(phases, setup.rate))
    per_replica = max(rate for _, rate, _ in steps) / replicas
    expected = per_replica * STEP * len(steps) * SAMPLED * setup.zones
    share = min(1.0, budget / expected)
    fleet = _Fleet(service, setup, replicas, share, seed)
    done = [fleet.step(at * STEP, phase, rate, lost) for at, (phase, rate, lost) in enumerate(steps)]
    return Result(done, share, len(fleet.sampled))
