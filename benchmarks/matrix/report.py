"""Markdown report of the matrix: targets first, then one table per group, and the table for the README."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.matrix import goals
from benchmarks.matrix.aims import GOALS
from benchmarks.matrix.contestants import COMPILE, EXPORT, GEMMS, KERNEL, ONE_RUN
from benchmarks.matrix.groups import TITLES
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM
from kanserve.bench import summary
from kanserve.bench.entrants import MLP, OURS, TORCH

READING = "A cell: median (quartiles) in us, how many times as long as the first of its line, the largest error."
Record = Mapping[str, Any]
CASE, ROWS, SHOWN = "[784, 64, 10], G = 5", (1, 64, 1024), (OURS, KERNEL, EXPORT, TORCH, COMPILE)  # the README's
BESIDE = (EXPORT, TORCH, COMPILE, GEMMS, MLP)  # whom the table of means has


def markdown(records: Sequence[Record], pictures: Sequence[str] = ()) -> str:
    """The whole report."""
    parts = [where(records), *(f"![{name.removesuffix('.svg')}]({name})" for name in pictures), _goals(records)]
    parts += [_means(records), READING]
    for name, own in itertools.groupby(records, lambda record: record["group"]):
        cells = list(own)
        parts += [f"### {TITLES.get(name, name)}", _table(cells), _notes(cells)]
    return "\n\n".join(part for part in parts if part) + "\n"


def readme(records: Sequence[Record]) -> str:
    """Means, and one network's times."""
    lines = [
        _line([record["group"], str(record["rows"])], record, SHOWN)
        for record in records
        if record["group"] in (UNIFORM, ADAPTED) and record["case"] == CASE and record["rows"] in ROWS
    ]
    head = _head(["knots", "rows"], [f"{name}, us" for name in SHOWN])
    table = f"{CASE}: median (quartiles), times ours, largest error\n\n{head}\n" + "\n".join(lines) if lines else ""
    return "\n\n".join(part for part in (_means(records), table, where(records)) if part) + "\n"


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
    return (
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {versions}; commit "
        f"{first['commit']}, {' to '.join(dict.fromkeys((days[0], days[-1])))}; in turns, "
        f"{' or '.join(map(str, rounds))} rounds; up to {busy:.1f} threads a core were at work when a cell began."
    )


def _goals(records: Sequence[Record]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in goals.outcomes(GOALS, records)]
    return "\n".join(["| what | against | aimed at | measured | |", "|---|---|---|---|---|", *lines])


def _means(records: Sequence[Record]) -> str:
    """Relative times of all systems in the two groups of spline networks (kanserve = 1)."""
    lines = []
    for group, ours in itertools.product((UNIFORM, ADAPTED), (OURS, ONE_RUN, KERNEL)):
        cells = []
        for other in BESIDE:
            ratios = list(goals.ratios(records, group, other, ours).values())
            cells.append(
                f"{statistics.geometric_mean(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
            )
        if any(cells):
            lines.append(f"| {group} knots, {ours} | {' | '.join(cells)} |")
    return "\n".join([_head(["times ours, geometric mean (least to most)"], BESIDE), *lines]) if lines else ""


def _table(records: Sequence[Record]) -> str:
    """A line a cell, a column for each who took part."""
    names = list(dict.fromkeys(entrant["name"] for record in records for entrant in record["entrants"]))
    threads = {record["threads"] for record in records}
    counted = any("edges" in record["facts"] for record in records)
    first = ["network" if len(threads) == 1 else "network, threads", "rows", *(["edges/s of ours"] if counted else [])]
    lines = []
    for record in records:
        case = record["case"] if len(threads) == 1 else f"{record['case']}, {record['threads']}"
        lines.append(_line([case, str(record["rows"]), *([_edges(record)] if counted else [])], record, names))
    return "\n".join([_head(first, [f"{name}, us" for name in names]), *lines])


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
    error = "error not known" if entrant["error"] is None else f"{entrant['error']:.0e}"
    wrong = " WRONG" if entrant["right"] is False else "" if entrant["steady"] else " WRONG: other bits each time"
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
        yield f"{name} was left out{'' if cases == every else ' of ' + '; '.join(cases)}: {why}"


def _facts(records: Sequence[Record]) -> Iterator[str]:
    """All networks on a line."""
    facts_by_case = {record["case"]: record["facts"] for record in records if record["facts"]}
    if facts_by_case:
        texts = (
            f"{case}: {', '.join(f'{name} {value}' for name, value in facts.items())}"
            for case, facts in facts_by_case.items()
        )
        yield "; ".join(texts)
