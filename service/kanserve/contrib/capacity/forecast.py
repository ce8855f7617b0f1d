"""Forecast for a fleet: the simulation of a plan, compared with the measured curve, as tables and a document."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kanexport.shared.cli.tables import Table
from kanserve.contrib.capacity import fleet, queueing, sizing
from kanserve.contrib.capacity.fleet import SCENARIO, Result, Setup, Step
from kanserve.contrib.capacity.measure import Curve
from kanserve.contrib.capacity.queueing import Service
from kanserve.contrib.capacity.sizing import Goal, Plan

CHECKED = 20_000  # requests of a simulation of one replica
LONGEST = 60.0  # seconds of it


@dataclass(frozen=True, slots=True)
class Check:
    """Latency of one replica at a rate in seconds: measured, and simulated."""

    rate: float
    p50: float
    p99: float
    simulated_p50: float
    simulated_p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Simulated fleet.

    goal     the goal, whose rate is the simulated full rate
    service  service times of a replica
    setup    the fleet
    start    replicas at the begin
    checks   the simulation of one replica at the measured rates
    """

    goal: Goal
    service: Service
    setup: Setup
    start: int
    checks: tuple[Check, ...]
    result: Result

    @property
    def requests(self) -> float:
        """Number of requests of the whole fleet."""
        return sum(step.rate * fleet.STEP for step in self.result.steps)

    def failed(self, kind: str) -> float:
        """Number of requests of the whole fleet that were `rejected` or `lost`."""
        return sum(float(getattr(step, kind)) * step.rate * fleet.STEP for step in self.result.steps)


def forecast(
    curve: Curve,
    plan: Plan,
    goal: Goal,
    *,
    most: int,
    limit: int,
    pod_start: float,
    budget: int = fleet.BUDGET,
    seed: int = 0,
) -> Forecast:
    """Simulate the plan at the rate of the goal.

    most       requests of a batch
    limit      requests that may wait in a replica
    pod_start  seconds until a new pod is ready
    budget     requests that are served, about
    """
    service = queueing.fit(curve, most=most, limit=limit)
    planned = sizing.replicas(goal.rate, plan.rate, goal.zones)
    least = max(sizing.LEAST, goal.zones)
    setup = Setup(
        rate=goal.rate,
        zones=goal.zones,
        target=plan.cpu_percent / 100,
        load=queueing.speed(curve) / goal.cores,
        least=least,
        most=math.ceil(sizing.GROWTH * planned),
        pod_start=pod_start,
    )
    start = max(least, math.ceil(fleet.LOW * goal.rate / plan.threshold_rate))
    phases = SCENARIO if goal.zones > 1 else tuple(phase for phase in SCENARIO if not phase.zone_lost)
    checks = []  # one replica at the rates that meet the goal
    for item in sorted((item for item in curve.levels if item.holds(curve.goal)), key=lambda item: item.offered):
        latency = queueing.simulate(service, item.offered, min(LONGEST, CHECKED / item.offered), seed)
        if len(latency):
            p50, p99 = np.quantile(latency, (0.5, 0.99))
            checks.append(Check(item.offered, item.p50, item.p99, float(p50), float(p99)))
    return Forecast(
        goal=goal,
        service=service,
        setup=setup,
        start=start,
        checks=tuple(checks),
        result=fleet.simulate(service, setup, start, phases=phases, budget=budget, seed=seed),
    )


def document(written: Forecast) -> dict[str, Any]:
    """JSON document. Times are in seconds, rates in requests per second; `rejected` and `lost` are shares."""
    service = {name: value for name, value in asdict(written.service).items() if name != "extra"}
    return {
        "service": {**service, "extra_p50": float(np.median(written.service.extra))},
        "fleet": asdict(written.setup),
        "requests": written.requests,
        "rejected": written.failed("rejected"),
        "lost": written.failed("lost"),
        "simulated_share": written.result.share,
        "simulated_replicas": written.result.sampled,
        "checks": [asdict(check) for check in written.checks],
        "assumed": list(assumed(written)),
        "phases": [{**_facts(steps), "phase": name} for name, steps in _phases(written)],
        "steps": [
            {name: value for name, value in asdict(step).items() if name != "latency"} for step in written.result.steps
        ],
    }


def _phases(written: Forecast) -> Iterator[tuple[str, list[Step]]]:
    for phase in SCENARIO:
        if steps := written.result.of_phase(phase.name):
            yield phase.name, steps


def _facts(steps: list[Step]) -> dict[str, float]:
    requests = sum(step.rate for step in steps)
    return {
        "rate": steps[-1].rate,
        "ready_first": steps[0].ready,
        "ready_last": steps[-1].ready,
        "cpu": max(step.cpu for step in steps),
        "p50": fleet.quantile(steps, 0.5),
        "p99": fleet.quantile(steps, 0.99),
        "p99_worst": max(fleet.quantile([step], 0.99) for step in steps),
        "rejected": sum(step.rejected * step.rate for step in steps) / requests,
        "lost": sum(step.lost * step.rate for step in steps) / requests,
    }


def phases_table(written: Forecast) -> Table:
    """Table of the phases of the scenario."""
    numbers = ("requests/s", "replicas", "CPU at most", "p50 ms", "p99 ms", "worst p99 ms", "rejected", "lost")
    title = f"simulated fleet at {written.goal.rate:,.0f} requests/s"
    rejected, lost = written.failed("rejected"), written.failed("lost")
    caption = (
        "worst p99: of 5 s; replicas: at the begin and the end of the phase; lost: without retries of the client",
        f"{written.requests:,.0f} requests, {rejected:,.0f} rejected, {lost:,.0f} lost",
    )
    table = Table(title, ("phase", *numbers), numbers=numbers, caption=caption)
    for name, steps in _phases(written):
        facts = _facts(steps)
        table.add(
            name,
            f"{facts['rate']:,.0f}",
            f"{facts['ready_first']:.0f} to {facts['ready_last']:.0f}",
            f"{100 * facts['cpu']:.0f}%",
            *(f"{1e3 * facts[quantile]:.3g}" for quantile in ("p50", "p99", "p99_worst")),
            *(f"{100 * facts[share]:.2g}%" for share in ("rejected", "lost")),
        )
    return table


def checks_table(written: Forecast) -> Table:
    """Table of the simulation of one replica next to the measurement."""
    numbers = ("requests/s", "p50 ms", "simulated", "error", "p99 ms", "simulated p99", "error of p99")
    table = Table("one replica, simulated at the measured rates", numbers, numbers=numbers)
    for check in written.checks:
        table.add(
            f"{check.rate:,.0f}",
            f"{1e3 * check.p50:.3g}",
            f"{1e3 * check.simulated_p50:.3g}",
            f"{100 * (check.simulated_p50 / check.p50 - 1):+.0f}%",
            f"{1e3 * check.p99:.3g}",
            f"{1e3 * check.simulated_p99:.3g}",
            f"{100 * (check.simulated_p99 / check.p99 - 1):+.0f}%",
        )
    return table


def assumed(written: Forecast) -> Iterator[str]:
    """Assumptions of the simulation."""
    service, setup, result = written.service, written.setup, written.result
    yield (
        f"a batch takes {1e6 * service.batch:.3g} µs and {1e6 * service.request:.3g} µs per request, fitted from CPU "
        f"times; the rest of the latency is that of a low rate"
    )
    yield "arrivals are random (Poisson) at each replica, at the mean rate of the fleet"
    yield (
        f"{result.sampled} replicas are sampled, and {100 * result.share:.3g}% of the time; rates and numbers of "
        f"replicas are those of the whole fleet"
    )
    yield (
        f"autoscaler of Kubernetes on {100 * setup.target:.0f}% CPU: every {fleet.SYNC:g} s, tolerance "
        f"{sizing.TOLERANCE:g}, at most twice the pods at a time; a pod is ready after {setup.pod_start:g} s"
    )
    if setup.zones > 1:
        yield (
            f"a lost zone: its requests fail for {fleet.DETECTION:g} s, and its pods are replaced after "
            f"{fleet.EVICTION:g} s; clients without retries"
        )
    yield f"at most {service.limit} requests wait in a replica; more are rejected, without retries"
