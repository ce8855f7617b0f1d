"""Replicas, thresholds of autoscalers, memory and Helm values for a rate, from a measured curve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanserve.contrib.capacity.http2 import CapacityError
from kanserve.contrib.capacity.measure import GENERATOR, Curve, Level

MEBIBYTE = 2**20
STEP = 64  # MiB, to which memory is rounded up
MARGIN = 1.25  # memory request relative to the measured peak
FILES = 5  # memory of a load relative to the size of its files, as in `system.resources.FACTOR`
SINGLE_ZONE = 0.7  # share of the measured rate that a replica gets if there is one zone
LEAST = 2  # replicas, so that one can be missing
GROWTH = 1.5  # largest number of replicas relative to the planned one
TOLERANCE = 0.1  # by which the use may exceed the threshold before the autoscaler adds replicas; Kubernetes' default
CPU_DEFAULT = 70  # percent; the chart's default, for a server whose CPU time is unknown
CPU_LEAST, CPU_MOST = 10, 95  # percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Goal of a plan.

    rate   requests per second
    p99    seconds
    zones  zones over which the replicas are spread; the plan permits the loss of one
    cores  cores of each replica
    """

    rate: float
    p99: float
    zones: int
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Replicas and thresholds.

    rate            highest measured rate of one replica that meets the goal, in requests per second
    replicas        number of replicas at the rate of the goal; a multiple of the zones
    share           rate of one replica with all zones, relative to `rate`
    threshold_rate  rate of one replica at which an autoscaler adds replicas
    cpu_percent     CPU use at this rate, relative to the cores of the replica
    cpu_measured    whether it was measured; otherwise it is the default of the chart
    inflight        mean number of requests in flight at this rate, by Little's law
    cores_per_rate  CPU seconds of the server per request at `rate`; NaN if unknown
    memory_request, memory_limit  bytes
    lower_bound     whether the generator was the limit, so that a replica may achieve more
    """

    rate: float
    replicas: int
    share: float
    threshold_rate: float
    cpu_percent: int
    cpu_measured: bool
    inflight: float
    cores_per_rate: float
    memory_request: int
    memory_limit: int
    lower_bound: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: measured peak of the server, files of its models, and its limit for messages in flight."""

    peak: int
    files: int
    messages: int


def plan(curve: Curve, goal: Goal, memory: Memory) -> Plan:
    """The plan for a goal. Raises CapacityError if no measured rate meets it."""
    best = curve.best
    if best is None:
        raise _impossible(curve, goal)
    count = replicas(goal.rate, best.offered, goal.zones)
    share = (goal.zones - 1) / goal.zones if goal.zones > 1 else SINGLE_ZONE
    threshold = best.offered * share / (1 + TOLERANCE)
    cores = at_rate(curve, threshold, lambda item: item.server_cores)
    percent = math.floor(100 * cores / goal.cores) if math.isfinite(cores) else CPU_DEFAULT
    return Plan(
        rate=best.offered,
        replicas=count,
        share=goal.rate / count / best.offered,
        threshold_rate=threshold,
        cpu_percent=min(CPU_MOST, max(CPU_LEAST, percent)),
        cpu_measured=math.isfinite(cores),
        inflight=threshold * at_rate(curve, threshold, lambda item: item.mean),
        cores_per_rate=best.server_cores / best.offered,
        memory_request=_rounded(MARGIN * memory.peak),
        memory_limit=_rounded(MARGIN * memory.peak + FILES * memory.files + memory.messages),
        lower_bound=curve.limit(goal.cores) == GENERATOR,
    )


def replicas(rate: float, per_replica: float, zones: int) -> int:
    """The smallest number of replicas, equal in all zones, that has the rate without one zone. With one zone, each
    replica gets `SINGLE_ZONE` of its rate."""
    if zones == 1:
        return max(LEAST, math.ceil(rate / (SINGLE_ZONE * per_replica) - 1e-9))
    return zones * max(1, math.ceil(rate / (per_replica * (zones - 1)) - 1e-9))


def at_rate(curve: Curve, rate: float, value: Callable[[Level], float]) -> float:
    """Value at a rate, interpolated between the levels that meet the goal; NaN if it is unknown."""
    levels = sorted((item for item in curve.levels if item.holds(curve.goal)), key=lambda item: item.offered)
    return float(np.interp(rate, [item.offered for item in levels], [value(item) for item in levels]))


def _rounded(size: float) -> int:
    return math.ceil(size / (STEP * MEBIBYTE)) * STEP * MEBIBYTE


def _impossible(curve: Curve, goal: Goal) -> CapacityError:
    floor = curve.floor
    if floor.disturbed(goal.p99):
        return CapacityError(
            f"the load generator sent requests up to {1e3 * floor.lag:.3g} ms late (p99), because other programs used "
            f"{curve.other_cores:.1f} cores",
            code="capacity-disturbed",
            hint="stop other programs on this machine, or pass a larger --p99",
        )
    if math.isinf(floor.p99) or floor.rejected + floor.lost > floor.count / 2:
        return CapacityError(
            f"at {floor.offered:,.0f} requests/s, {floor.rejected} of {floor.count} requests were rejected, and "
            f"{floor.lost} had no response",
            code="capacity-requests-failed",
            hint="send one request with `kanserve infer` and correct its error, then run the command again",
        )
    if floor.p99 <= goal.p99:
        return CapacityError(
            f"at {floor.offered:,.0f} requests/s, almost without load, {floor.achieved:,.0f} requests/s succeeded: "
            f"{floor.rejected} of {floor.count} were rejected, {floor.lost} had no response, the others came late",
            code="capacity-floor-not-reached",
            hint="stop other programs on this machine, or send fewer --rows, then run the command again",
        )
    return CapacityError(
        f"the p99 is {1e3 * floor.p99:.3g} ms at {floor.offered:,.0f} requests/s, almost without load, "
        f"more than --p99 {1e3 * goal.p99:.4g}ms",
        code="capacity-goal-below-floor",
        hint=f"pass --p99 {math.ceil(2e3 * floor.p99)}ms or more, send fewer --rows, or stop other programs here",
    )


def helm_values(result: Plan, goal: Goal) -> dict[str, Any]:
    """Values of the chart in service/deploy/helm/kanserve for a plan."""
    cores = str(goal.cores)
    return {
        "replicas": result.replicas,
        "resources": {
            "requests": {"cpu": cores, "memory": f"{result.memory_request // MEBIBYTE}Mi"},
            "limits": {"cpu": cores, "memory": f"{result.memory_limit // MEBIBYTE}Mi"},
        },
        "autoscaling": {
            "type": "hpa",
            "minReplicas": max(LEAST, goal.zones),
            "maxReplicas": math.ceil(GROWTH * result.replicas),
            "hpa": {"cpuPercent": result.cpu_percent},
            "keda": {"inflightRequests": max(1, math.floor(result.inflight))},
        },
    }


def yaml(values: dict[str, Any], indent: int = 0) -> list[str]:
    """Lines of a YAML document of nested mappings with text and numbers."""
    lines = []
    for name, value in values.items():
        start = f"{' ' * indent}{name}:"
        if isinstance(value, dict):
            lines += [start, *yaml(value, indent + 2)]
        else:
            lines.append(f'{start} "{value}"' if isinstance(value, str) and value.isdecimal() else f"{start} {value}")
    return lines
