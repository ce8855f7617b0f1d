"""Summary of a plan: tables, JSON document and picture of the measured curve."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kanexport.shared.cli.tables import Table
from kanserve.contrib.capacity import measure, sizing
from kanserve.contrib.capacity.measure import Curve, Level
from kanserve.contrib.capacity.sizing import MEBIBYTE, Goal, Memory, Plan
from kanserve.plotting.figures import LogPlot
from kanserve.plotting.scenes import BLUE, GREY, PURPLE, RED, Dot, Line, Scene, Words

LIMITS = {
    measure.GENERATOR: "the load generator used its core: the server may achieve more",
    measure.SERVER: "the server used its cores",
    measure.LATENCY: "only the latency: neither the server nor the generator used its cores",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Everything that was measured and planned.

    title      the model and the request in words
    place      the server, the generator and the cores in words
    machine    facts of the machine, as in a benchmark
    rows       rows of a request
    most_rows  rows of the largest batch of the model
    """

    title: str
    place: str
    machine: dict[str, Any]
    rows: int
    most_rows: int
    goal: Goal
    curve: Curve
    memory: Memory
    plan: Plan

    @property
    def values(self) -> dict[str, Any]:
        """Values of the Helm chart."""
        return sizing.helm_values(self.plan, self.goal)

    @property
    def limit(self) -> str:
        """The reason why higher rates do not meet the goal, in words."""
        return LIMITS[self.curve.limit(self.goal.cores)]


def document(study: Study) -> dict[str, Any]:
    """JSON document. Times are in seconds, rates in requests per second, memory in bytes."""
    return {
        "model": study.title,
        "machine": study.machine,
        "place": study.place,
        "rows_per_request": study.rows,
        "goal": asdict(study.goal),
        "curve": [_level(item, study.goal.p99) for item in study.curve.levels],
        "limit": study.curve.limit(study.goal.cores),
        "memory": asdict(study.memory),
        "plan": {**asdict(study.plan), "cores": study.plan.replicas * study.goal.cores},
        "measured": list(measured(study)),
        "assumed": list(assumed(study)),
        "values": study.values,
    }


def _level(item: Level, goal: float) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(item).items() if name != "quantiles"}
    return {**facts, "holds": item.holds(goal)}


def table(study: Study) -> Table:
    """Table of the measured curve, by rate."""
    numbers = ("requests/s", "p50 ms", "p99 ms", "failed", "server cores", "generator cores", "late ms", "rows per run")
    rows = Table(study.title, (*numbers, "goal"), numbers=numbers, caption=(study.place, _machine(study)))
    for item in sorted(study.curve.levels, key=lambda item: item.offered):
        rows.add(
            f"{item.offered:,.0f}",
            f"{1e3 * item.p50:.3g}",
            f"{1e3 * item.p99:.3g}",
            str(item.rejected + item.lost),
            _number(item.server_cores),
            _number(item.generator_cores),
            f"{1e3 * item.lag:.1f}",
            _number(study.rows * item.achieved / item.batches if item.batches else math.nan),
            "met" if item.holds(study.goal.p99) else "missed",
        )
    return rows


def _machine(study: Study) -> str:
    facts = study.machine
    return (
        f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, Python {facts['python']}, load of other "
        f"programs {facts['load']:.1f}; late: p99 of the time by which a request was sent late"
    )


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "unknown"


def lines(study: Study) -> Iterator[str]:
    """The plan in words."""
    plan, goal = study.plan, study.goal
    bound = "at least " if plan.lower_bound else ""
    yield f"one replica of {_cores(goal.cores)}: {bound}{plan.rate:,.0f} requests/s within {_ms(goal.p99)} (p99)"
    yield f"limit: {study.limit}"
    if study.curve.other_cores > DISTURBED:
        others = f"other programs used {study.curve.other_cores:.2f} cores meanwhile"
        yield f"disturbed: {others}, so the rate is too low; stop them and repeat the measurement"
    if plan.cores_per_rate > 0:  # not if it is unknown, or less than a clock tick
        cpu = f"{1e6 * plan.cores_per_rate:.3g} µs of CPU time per request"
        yield f"server: {cpu}, {study.rows / plan.cores_per_rate:,.0f} rows/s per busy core"
    zones = f" in {goal.zones} zones" if goal.zones > 1 else ""
    total = plan.replicas * goal.cores
    yield f"plan for {goal.rate:,.0f} requests/s: {plan.replicas} replicas{zones}, {_cores(total)}"
    yield f"load of a replica at this rate: {100 * plan.share:.0f}% of its highest rate"
    yield f"autoscaler: {plan.cpu_percent}% CPU, or {plan.inflight:.1f} requests in flight per replica"
    sizes = (plan.memory_request, plan.memory_limit)
    yield "memory of a replica: request {} MiB, limit {} MiB".format(*(size // MEBIBYTE for size in sizes))


def measured(study: Study) -> Iterator[str]:
    """Facts that the command measured."""
    yield "latency from the due time of a request to its response, at random arrival times (Poisson)"
    if study.plan.cpu_measured:
        yield "CPU time and peak memory of the server from /proc"
    yield f"highest rate, in a window of {measure.FINAL:g} s"


def assumed(study: Study) -> Iterator[str]:
    """Assumptions of the plan."""
    goal, plan = study.goal, study.plan
    yield "a core of the cluster is as fast as one of this machine, and requests come from the same network"
    yield "a CPU limit does not throttle: set whole cores, request equal to limit"
    if goal.zones > 1:
        yield f"{goal.zones} zones with equal replicas; without one zone, the others meet the goal at the full rate"
    else:
        yield f"one zone: a replica gets {100 * sizing.SINGLE_ZONE:.0f}% of its highest rate"
    yield "clients spread requests evenly over the replicas"
    share = 100 * plan.threshold_rate / plan.rate
    origin = "CPU use" if plan.cpu_measured else "unknown CPU use, so the default of the chart,"
    yield f"the autoscaler adds replicas at {share:.0f}% of the highest rate ({origin} {plan.cpu_percent}%)"
    yield f"largest number of replicas: {sizing.GROWTH:g} times the plan"
    peak = f"{sizing.MARGIN:g} times the measured peak" if study.memory.peak else "unknown peak, so messages only"
    messages = study.memory.messages // MEBIBYTE
    yield f"memory: {peak}; limit: {messages} MiB of messages and {sizing.FILES} times the files of the models more"


def _cores(count: int) -> str:
    return f"{count} core{'s' * (count != 1)}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:g} ms"


DISTURBED = 0.2  # cores of other programs, from which the result counts as disturbed
LEGEND = 190.0  # pixels right of the axes
SERIES = (("p50", BLUE), ("p99", RED))
LONGEST = 20.0  # p99 relative to the goal, above which a level is outside the picture


def picture(study: Study) -> Scene:
    """Plot of p50 and p99 over the rate, with the goal and the highest rate that meets it."""
    goal = study.goal.p99
    shown = [item for item in study.curve.levels if item.achieved > 0 and item.p99 <= LONGEST * goal]
    shown.sort(key=lambda item: item.offered)
    times = [1e3 * time for item in shown for time in (item.p50, item.p99)] + [1e3 * goal]
    plot = LogPlot([item.offered for item in shown], times, LEGEND)
    scene = plot.scene(study.title, _machine(study), ("requests per second", "latency, ms"))
    for at, (name, colour) in enumerate(SERIES):
        plot.legend(scene, at, colour, name)
        places = [(plot.across(item.offered), plot.down(1e3 * getattr(item, name))) for item in shown]
        scene.add(Line(tuple(places), colour, 2.0), *(Dot(x, y, 3.0, colour) for x, y in places))
    y, x = plot.down(1e3 * goal), plot.across(study.plan.rate)
    scene.add(Line(((plot.left, y), (plot.right, y)), GREY))
    scene.add(Words(plot.right + 8, y + 4, f"goal {_ms(goal)}", 10, "start", GREY))
    scene.add(Line(((x, plot.top), (x, plot.floor)), PURPLE))
    scene.add(Words(x, plot.top - 8, f"{study.plan.rate:,.0f}/s", 10, "middle", PURPLE))
    return scene
