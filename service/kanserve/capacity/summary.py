"""Summary of a plan: tables, JSON document and picture of the measured curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kanexport.contract.cli.tables import Table
from kanserve.capacity import measure, sizing
from kanserve.capacity.measure import Curve, Level
from kanserve.capacity.sizing import MEBIBYTE, Goal, Memory, Plan
from kanserve.plotting.figures import decades
from kanserve.plotting.scenes import BLUE, GREY, PURPLE, RED, Box, Dot, Line, Scene, Words, shortened

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
            f"{1e3 * item.lag:.2g}",
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
    if math.isfinite(plan.cores_per_rate):
        cpu = f"{1e6 * plan.cores_per_rate:.3g} µs of CPU time per request"
        yield f"server: {cpu}, {study.rows / plan.cores_per_rate:,.0f} rows/s per busy core"
    zones = f" in {goal.zones} zones" if goal.zones > 1 else ""
    total = plan.replicas * goal.cores
    yield f"plan for {goal.rate:,.0f} requests/s: {plan.replicas} replicas{zones}, {_cores(total)}"
    yield f"load of a replica at this rate: {100 * plan.share:.0f}% of its highest rate"
    yield f"autoscaler: {plan.cpu_percent}% CPU, or {plan.inflight:.2g} requests in flight per replica"
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
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720.0, 440.0, 80.0, 190.0, 48.0, 64.0
INNER, FLOOR, ROOM = WIDTH - RIGHT, HEIGHT - BOTTOM, 0.05
LONGEST = 20.0  # p99 relative to the goal, above which a level is outside the picture


@dataclass(frozen=True, slots=True)
class _Frame:
    """Axes in powers of ten: rates from `start` to `end`, milliseconds from `low` to `high`."""

    start: float
    end: float
    low: float
    high: float

    def across(self, rate: float) -> float:
        return LEFT + (INNER - LEFT) * (math.log10(rate) - self.start) / (self.end - self.start)

    def down(self, time: float) -> float:
        return FLOOR - (FLOOR - TOP) * (math.log10(time) - self.low) / (self.high - self.low)


def picture(study: Study) -> Scene:
    """Plot of p50 and p99 over the rate, with the goal and the highest rate that meets it."""
    goal = study.goal.p99
    shown = [item for item in study.curve.levels if item.achieved > 0 and item.p99 <= LONGEST * goal]
    shown.sort(key=lambda item: item.offered)
    times = [1e3 * time for item in shown for time in (item.p50, item.p99)] + [1e3 * goal]
    rates = [item.offered for item in shown]
    edges = (min(rates), max(rates)), (min(times), max(times))
    (start, end), (low, high) = ((math.log10(a) - ROOM, math.log10(b) + ROOM) for a, b in edges)
    frame = _Frame(start, end, low, high)
    scene = Scene(WIDTH, HEIGHT, study.title)
    scene.add(Words(LEFT, 22, shortened(study.title, 90), 14, "start"))
    scene.add(Words(LEFT, HEIGHT - 8, shortened(_machine(study), 130), 10, "start", GREY))
    _axes(scene, frame)
    for at, (name, colour, value) in enumerate(SERIES):
        _series(scene, frame, at, name, colour, [(item.offered, 1e3 * value(item)) for item in shown])
    y, x = frame.down(1e3 * goal), frame.across(study.plan.rate)
    scene.add(Line(((LEFT, y), (INNER, y)), GREY), Words(INNER + 8, y + 4, f"goal {_ms(goal)}", 10, "start", GREY))
    scene.add(
        Line(((x, TOP), (x, FLOOR)), PURPLE), Words(x, TOP - 8, f"{study.plan.rate:,.0f}/s", 10, "middle", PURPLE)
    )
    return scene


def _p50(item: Level) -> float:
    return item.p50


def _p99(item: Level) -> float:
    return item.p99


SERIES = (("p50", BLUE, _p50), ("p99", RED, _p99))


def _axes(scene: Scene, frame: _Frame) -> None:
    scene.add(Box(LEFT, TOP, INNER - LEFT, FLOOR - TOP, "", GREY), Words(LEFT, TOP - 8, "latency, ms", 11, "start"))
    scene.add(Words((LEFT + INNER) / 2, FLOOR + 34, "requests per second", 11))
    for rate in decades(10**frame.start, 10**frame.end):
        at = frame.across(rate)
        scene.add(Line(((at, FLOOR), (at, FLOOR + 5)), GREY), Words(at, FLOOR + 18, f"{rate:,.10g}", 10))
    for time in decades(10**frame.low, 10**frame.high):
        at = frame.down(time)
        scene.add(Line(((LEFT - 5, at), (LEFT, at)), GREY), Words(LEFT - 8, at + 4, f"{time:,.10g}", 10, "end"))


def _series(
    scene: Scene, frame: _Frame, at: int, name: str, colour: str, points: Sequence[tuple[float, float]]
) -> None:
    places = [(frame.across(rate), frame.down(time)) for rate, time in points]
    scene.add(Line(tuple(places), colour, 2.0), *(Dot(x, y, 3.0, colour) for x, y in places))
    level = TOP + 14 + 18 * at
    scene.add(Line(((INNER + 10, level - 4), (INNER + 26, level - 4)), colour, 2.0))
    scene.add(Words(INNER + 32, level, name, 10, "start"))
