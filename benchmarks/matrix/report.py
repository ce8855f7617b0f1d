"""Markdown report of the matrix: targets and means first, then one table per group."""

from __future__ import annotations

import itertools
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.matrix import goals, labels
from benchmarks.matrix.aims import GOALS
from benchmarks.matrix.contestants import COMPILE, EXPORT, GEMMS, KERNEL, ONE_RUN
from benchmarks.matrix.groups import TITLES
from benchmarks.matrix.groups.families import FAMILIES
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM
from kanserve.contrib.bench import summary
from kanserve.contrib.bench.entrants import MLP, OURS, TORCH

READING = (
    "Each cell has the median time (quartiles) in microseconds, the time relative to the first system of its line, and "
    "the largest error. Lower is better for all three."
)
RATE = "The column `edges/s` is the rate of the portable graph; higher is better."
Record = Mapping[str, Any]
BESIDE = (EXPORT, TORCH, COMPILE, GEMMS, MLP)  # the columns of the table of means


def markdown(records: Sequence[Record]) -> str:
    """The whole report."""
    return "\n\n".join(part for part in (targets(records), means(records), tables(records)) if part) + "\n"


def targets(records: Sequence[Record]) -> str:
    """Place of the measurement, and each target with its figure."""
    lines = [f"| {' | '.join(line)} |" for line in goals.outcomes(GOALS, records)]
    head = ["| measure | compared with | target | measured | result |", "|---|---|---|---|---|"]
    return "\n".join([where(records), "", *head, *lines])


def tables(records: Sequence[Record]) -> str:
    """One table per group."""
    counted = any("edges" in record["facts"] for record in records)
    parts = [_wrapped(f"{READING} {RATE}" if counted else READING)]
    for name, own in itertools.groupby(records, lambda record: record["group"]):
        cells = list(own)
        parts += [f"## {TITLES.get(name, name)}", _table(cells), _notes(cells)]
    return "\n\n".join(part for part in parts if part)


def where(records: Sequence[Record]) -> str:
    """Machine, versions, commit and days."""
    if not records:
        return "Nothing was measured."
    first = records[0]
    machine = first["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    days = sorted({record["at"][:10] for record in records})
    rounds = sorted({record["rounds"] for record in records})
    busy = max(record["load"] for record in records) / machine["cores"]
    return _wrapped(
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {versions}. Commit "
        f"{first['commit']}, {' to '.join(dict.fromkeys((days[0], days[-1])))}. Interleaved, "
        f"{' or '.join(map(str, rounds))} rounds. Load of the machine when a measurement began: up to {busy:.1f} "
        "threads per core."
    )


def means(records: Sequence[Record]) -> str:
    """Relative times of all systems in the two groups of spline networks (kanserve = 1)."""
    lines = []
    for group, ours in itertools.product((UNIFORM, ADAPTED), (KERNEL, OURS, ONE_RUN)):
        cells = []
        for other in BESIDE:
            ratios = list(goals.ratios(records, group, other, ours).values())
            cells.append(
                f"{statistics.geometric_mean(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
            )
        if any(cells):
            lines.append(f"| {group} knots, {labels.of(ours)} | {' | '.join(cells)} |")
    head = _head(["knots, system that counts as 1"], [labels.of(name) for name in BESIDE])
    return "\n".join([head, *lines]) if lines else ""


def _table(records: Sequence[Record]) -> str:
    """One line per cell, one column per system."""
    names = list(dict.fromkeys(entrant["name"] for record in records for entrant in record["entrants"]))
    threads = {record["threads"] for record in records}
    counted = any("edges" in record["facts"] for record in records)
    unit = "library" if records[0]["group"] == FAMILIES else "network"
    first = [unit if len(threads) == 1 else f"{unit}, threads", "rows", *(["edges/s"] if counted else [])]
    lines = []
    for record in records:
        case = record["case"] if len(threads) == 1 else f"{record['case']}, {record['threads']}"
        lines.append(_line([case, str(record["rows"]), *([_edges(record)] if counted else [])], record, names))
    return "\n".join([_head(first, [f"{labels.of(name)}, us" for name in names]), *lines])


def _edges(record: Record) -> str:
    ours = goals.of(record, OURS)
    return "" if ours is None else summary.large(record["facts"]["edges"] * record["rows"] / ours["median"])


def _head(first: Sequence[str], names: Sequence[str]) -> str:
    every = (*first, *names)
    return f"| {' | '.join(every)} |\n|{'---|' * len(every)}"


def _line(first: Sequence[str], record: Record, names: Sequence[str]) -> str:
    return f"| {' | '.join([*first, *(_cell(goals.of(record, name)) for name in names)])} |"


def _cell(entrant: Mapping[str, Any] | None) -> str:
    """Median and quartiles, how many times the first of the line, and the largest error."""
    if entrant is None:
        return ""
    median, lower, upper = (_us(entrant[name]) for name in ("median", "lower", "upper"))
    error = "error unknown" if entrant["error"] is None else f"{entrant['error']:.0e}"
    wrong = " WRONG" if entrant["right"] is False else "" if entrant["steady"] else " WRONG: not bit-identical"
    ratio = "" if entrant["ratio"] == 1 else f", {entrant['ratio']:.2g}x"
    return f"{median} ({lower} to {upper}){ratio}, {error}{wrong}"


def _us(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _notes(records: Sequence[Record]) -> str:
    """Systems that are absent from cases, with the reason, and other facts."""
    return "\n".join(f"* {line}" for line in (*_absences(records), *_facts(records)))


def _absences(records: Sequence[Record]) -> Iterator[str]:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for name, why in record["absent"].items():
            cases = by_reason.setdefault((name, why), [])
            if record["case"] not in cases:
                cases.append(record["case"])
    every = list(dict.fromkeys(record["case"] for record in records))
    for (name, why), cases in by_reason.items():
        networks = "" if cases == every else f" Networks: {'; '.join(cases)}."
        yield f"{labels.of(name)} is not in the table: {labels.of(why)}.{networks}"


def _facts(records: Sequence[Record]) -> Iterator[str]:
    """A line per network."""
    for case, facts in {record["case"]: record["facts"] for record in records if record["facts"]}.items():
        yield f"{case}: {', '.join(f'{labels.of(name)} {value}' for name, value in facts.items())}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
