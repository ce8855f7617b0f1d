"""Targets of the server benchmark, each as the values of all rounds of one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from servers import production
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
    """One target: a ratio that the median must reach. `values`: the value of each round."""

    name: str
    case: str
    bound: float
    values: Values

    def row(self, measured: Measured) -> tuple[str, str, str, str]:
        """Name, target, what was reached, and the result; the result is `not run` without values."""
        values, goal = self.values(measured), f"at least {self.bound:.2f}x"
        if not values:
            return self.name, goal, "-", "not run"
        _, middle, _ = quartiles(values)
        return self.name, goal, spread(values, "{:.2f}x"), "met" if middle >= self.bound else "**missed**"


def ratio(name: str, other: str, level: int) -> Values:
    """Rate of a system relative to another one of the same round."""
    return lambda measured: [mine.rate / theirs.rate for mine, theirs in measured.pairs(name, other, level)]


def slowest(tool: str) -> Values:
    """Rate of the line of the matrix with the smallest median, relative to that without extra headers."""
    base = production.name(tool, production.OURS, production.BASE[tool])
    names = [production.name(tool, production.OURS, line) for line in production.LINES]

    def values(measured: Measured) -> list[float]:
        found = [ratio(name, base, 0)(measured) for name in names if name != base]
        return min(filter(None, found), key=statistics.median, default=[])

    return values


def looped(name: str, graph: str, level: int) -> Values:
    """Rows per second of a system relative to sessions that run in a loop without a server."""

    def values(measured: Measured) -> list[float]:
        samples = measured.samples.get((name, level), ())
        return [mine.rate / loop for mine, loop in zip(samples, measured.loops.get(graph, ()), strict=False)]

    return values


ASGI = "kanserve asgi"
SECURE = production.name(production.H2LOAD, production.OURS, production.PRODUCTION)
PLAIN = production.name(production.H2LOAD, production.BARE, "no header")
TARGETS = (
    Target(
        f"{production.PRODUCTION} / no-op grpcio without them, h2load", production.KEY, 6.2, ratio(SECURE, PLAIN, 0)
    ),
    *(
        Target(f"slowest line / no extra header, {tool}", production.KEY, 0.85, slowest(tool))
        for tool in production.BASE
    ),
    *(
        Target(f"{ASGI} / no-op grpcio, c = {level}", SMALL.key, bound, ratio(ASGI, "no-op grpcio", level))
        for level, bound in ((1, 2.6), (8, 2.8), (32, 3.9), (128, 5.0))
    ),
    *(
        Target(f"{name} / tritonclient, {kind} = {level}", production.KEY, 1.0, values)
        for name, kind in (("Client", "threads"), ("AsyncClient", "tasks"))
        for level in (1, production.AT_ONCE)
        for values in (ratio(f"{name}, {kind}", f"tritonclient, {kind}", level),)
    ),
    Target(
        f"portable graph / two sessions in a loop, {LARGE.title}, c = 4",
        LARGE.key,
        0.85,
        looped(PORTABLE, "portable graph", 4),
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
