"""Speed targets of the matrix, and whether the measurements meet them.

A target is a line of `GOALS`: a text, a figure from the records, and whether the limit is a minimum or a maximum.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanserve.contrib.bench.entrants import OURS

Record = Mapping[str, Any]
Figure = Callable[[Sequence[Record]], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """One target. `figure` returns None if the records have no measurement for it. `form` formats the figure."""

    what: str
    against: str
    figure: Figure
    limit: float
    least: bool  # the limit is the least that it may be, else the most
    form: str = "{:.2f}x"

    def reached(self, figure: float) -> bool:
        """Whether a figure is on the right side of the limit."""
        return figure >= self.limit if self.least else figure <= self.limit


def of(record: Record, name: str) -> Mapping[str, Any] | None:
    """One who took part in a cell."""
    return next((entrant for entrant in record["entrants"] if entrant["name"] == name), None)


def ratios(records: Sequence[Record], group: str, other: str, ours: str = OURS) -> dict[tuple[str, int], float]:
    """By case and rows, how many times as long as ours the other takes. Each was compared round by round with the first
    of its cell, which takes out what disturbed both."""
    by_cell = {}
    for record in records:
        mine, theirs = of(record, ours), of(record, other)
        if record["group"] == group and mine is not None and theirs is not None:
            by_cell[record["case"], record["rows"]] = theirs["ratio"] / mine["ratio"]
    return by_cell


def mean(group: str, other: str, ours: str = OURS, *, inverse: bool = False) -> Figure:
    """The geometric mean of the ratios; `inverse`: how many times as long as the other ours takes."""

    def figure(records: Sequence[Record]) -> float | None:
        values = list(ratios(records, group, other, ours).values())
        value = statistics.geometric_mean(values) if values else None
        return 1 / value if inverse and value else value

    return figure


def least(group: str, other: str, ours: str = OURS, rows: int | None = None) -> Figure:
    """The least of the ratios, of all cells or those of so many rows."""

    def figure(records: Sequence[Record]) -> float | None:
        every = ratios(records, group, other, ours)
        return min((value for (_, count), value in every.items() if rows in (None, count)), default=None)

    return figure


def time(group: str, case: str, name: str, rows: int, unit: float = 1e6) -> Figure:
    """A median time. `unit`: units per second."""

    def figure(records: Sequence[Record]) -> float | None:
        for record in records:
            if (record["group"], record["case"], record["rows"]) == (group, case, rows):
                entrant = of(record, name)
                return None if entrant is None else entrant["median"] * unit
        return None

    return figure


def outcomes(goals: Sequence[Goal], records: Sequence[Record]) -> Iterator[tuple[str, str, str, str, str]]:
    """For each target: its text, the system compared with, the limit, the figure, and whether the figure meets it."""
    for goal in goals:
        figure = goal.figure(records)
        target = f"{'at least' if goal.least else 'at most'} {goal.form.format(goal.limit)}"
        if figure is None:
            yield goal.what, goal.against, target, "", "not run"
        else:
            outcome = "met" if goal.reached(figure) else "**missed**"
            yield goal.what, goal.against, target, goal.form.format(figure), outcome
