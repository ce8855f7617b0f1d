"""Targets of the server benchmark, each as the values of all rounds of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from servers.contestants import BARE, OURS, PORTABLE, TLS, TRITONS
from servers.measured import Case, Measured, quartiles, spread

SMALL = Case((4, 8, 1), 1, (1, 8, 32, 128), (*BARE, *(f"kanserve {name}" for name in OURS), TLS, *TRITONS))
LARGE = Case(
    (784, 64, 10), 64, (4, 8), ("grpc.aio handler", "kanserve asgi", "kanserve asgi, portable graph", *TRITONS)
)
CASES = (SMALL, LARGE)
Values = Callable[[Measured], list[float]]


@dataclass(frozen=True)
class Target:
    """One target. `values`: the value of each round; `least`: whether the median must reach `bound` from above."""

    name: str
    case: str
    bound: float
    values: Values
    least: bool = True
    form: str = "{:.2f}x"

    def row(self, measured: Measured) -> tuple[str, str, str, str]:
        """Name, target, what was reached, and the result; the result is `not run` without values."""
        values = self.values(measured)
        sign = "at least" if self.least else "at most"
        goal = f"{sign} {self.form.format(self.bound)}"
        if not values:
            return self.name, goal, "-", "not run"
        _, middle, _ = quartiles(values)
        met = middle >= self.bound if self.least else middle <= self.bound
        return self.name, goal, spread(values, self.form), "met" if met else "**missed**"


def ratio(name: str, other: str, level: int) -> Values:
    """Rate of a system relative to another one of the same round."""
    return lambda measured: [mine.rate / theirs.rate for mine, theirs in measured.pairs(name, other, level)]


def value(name: str, level: int, field: str) -> Values:
    """One figure of a system: `rate`, `p50`, `p99` or `cpu`."""
    return lambda measured: [getattr(sample, field) for sample in measured.samples.get((name, level), ())]


def added(name: str, other: str, level: int) -> Values:
    """Median latency that a system has in addition to another one, in microseconds."""
    return lambda measured: [mine.p50 - theirs.p50 for mine, theirs in measured.pairs(name, other, level)]


def looped(name: str, graph: str, level: int) -> Values:
    """Rows per second of a system relative to sessions that run in a loop without a server."""

    def values(measured: Measured) -> list[float]:
        samples = measured.samples.get((name, level), ())
        return [mine.rate / loop for mine, loop in zip(samples, measured.loops.get(graph, ()), strict=False)]

    return values


ASGI, US = "kanserve asgi", "{:.0f} us"
TARGETS = (
    *(
        Target(f"{ASGI} / no-op grpcio, c = {level}", SMALL.key, bound, ratio(ASGI, "no-op grpcio", level))
        for level, bound in ((1, 1.75), (8, 2.8), (32, 3.8), (128, 4.2))
    ),
    Target(f"{ASGI} / no-op asgi, c = 32", SMALL.key, 0.80, ratio(ASGI, "no-op asgi", 32)),
    Target("server CPU per request, c = 32", SMALL.key, 48, value(ASGI, 32, "cpu"), least=False, form=US),
    Target("added median latency to no-op asgi, c = 1", SMALL.key, 45, added(ASGI, "no-op asgi", 1), False, US),
    Target("p99 latency, c = 32", SMALL.key, 4000, value(ASGI, 32, "p99"), least=False, form=US),
    Target("TLS / without TLS, c = 32", SMALL.key, 0.9, ratio(TLS, ASGI, 32)),
    *(
        Target(f"portable graph / two sessions in a loop, {LARGE.title}, c = {level}", LARGE.key, 0.95, values)
        for level in LARGE.levels
        for values in (looped(PORTABLE, "portable graph", level),)
    ),
)


def rows(measured: Mapping[str, Measured]) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the table, of the cases that were measured. `measured`: by key of the case."""
    for target in TARGETS:
        if target.case in measured:
            yield target.row(measured[target.case])


def table(measured: Mapping[str, Measured]) -> str:
    """The table in Markdown; empty if none of the cases was measured."""
    lines = [f"| {' | '.join(row)} |\n" for row in rows(measured)]
    head = "| target | goal | reached, median (quartiles) | result |\n|---|---|---|---|\n"
    return head + "".join(lines) if lines else ""


def record(measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """The same as JSON objects."""
    fields = ("target", "goal", "reached", "result")
    return [dict(zip(fields, (*row[:3], row[3].strip("*")), strict=True)) for row in rows(measured)]
