"""What a model's numbers are over rows, beside what they were: the answer of GetStatistics as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanserve.client import errors
from kanserve.client.description import Description
from kanserve.client.rows import packed
from kanserve.pb import kan_pb2 as kan

Floats = NDArray[np.float64]
OUTPUT = -1
ZONES = ("inside", "extension", "outside")


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Of the nodes that `layer` is given, the inputs for 0, or of the answers (-1); each array [n].

    `psi`, `js` (bits) and `wasserstein` (cells): how far the window is from the baseline; `chance`: what psi stays
    below in 99 of 100 windows in which nothing has changed, for all of these nodes together. `outside`, `before`: the
    share of values outside the cells, now and in the baseline. All of these are empty where there is no baseline.
    `nonfinite`: how many were not finite. `bounds` and `counts`: of each node, the cells and how many values lay below
    them, in each, and above them. `zones` [n, 3]: how many lay inside the grid, on its extension and outside;
    `origins`: where the cells come from, "grid", "reference" or "drawn" (to be outside means nothing then). `mean`,
    `std`, `low` and `high` of the finite values.
    """

    layer: int
    psi: Floats
    js: Floats
    wasserstein: Floats
    chance: Floats
    outside: Floats
    before: Floats
    nonfinite: NDArray[np.uint64]
    bounds: tuple[Floats, ...]
    counts: tuple[NDArray[np.uint64], ...]
    zones: NDArray[np.uint64]
    origins: tuple[str, ...]
    mean: Floats
    std: Floats
    low: Floats
    high: Floats

    @property
    def drifted(self) -> NDArray[np.bool_]:
        """[n]: whose values have moved, by more than chance."""
        return np.asarray(self.psi > self.chance)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Over `row_count` rows, those given, the latest of the traffic or all of it that was looked into (`over`: rows,
    live or total), beside the `baseline_rows` of the file `baseline` that the export was given, if it was. Of traffic:
    `rows_seen` were answered in `seconds`, `since` when, in seconds since the epoch, counted by so many `processes`.
    `classes` [C]: in how many answers each number was the largest; empty where that says nothing."""

    version: str
    over: str
    row_count: int
    baseline: str
    baseline_rows: int
    nodes: tuple[NodeStatistics, ...]
    rows_seen: int
    seconds: float
    digest: str
    since: float
    processes: int
    classes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Update:
    """One of a watch; with the last one, why it was: `ended`, else empty."""

    statistics: Statistics
    ended: str


def request(described: Description, rows: Any) -> kan.GetStatisticsRequest:
    """The message that asks for them."""
    given = {} if rows is None else packed(described, rows)
    return kan.GetStatisticsRequest(model_name=described.name, model_version=described.version, **given)


def compared(found: Statistics, name: str) -> Statistics:
    """The same. Raises NotSupported where there is nothing to compare with."""
    if not found.baseline_rows:
        raise errors.of(
            "FAILED_PRECONDITION",
            f"model '{name}' has nothing to compare with: its export was given no rows (kanserve export --reference)",
        )
    return found


def of(answer: kan.GetStatisticsResponse) -> Statistics:
    """The answer as plain values."""
    return Statistics(
        version=answer.model_version,
        over=answer.over,
        row_count=answer.row_count,
        baseline=answer.baseline,
        baseline_rows=answer.baseline_rows,
        nodes=tuple(map(_nodes, answer.nodes)),
        rows_seen=answer.rows_seen,
        seconds=answer.seconds,
        digest=answer.digest,
        since=answer.since,
        processes=answer.processes,
        classes=np.array(answer.classes, np.int64),
    )


def updates(messages: Iterable[kan.StatisticsUpdate]) -> Iterator[Update]:
    """The messages of a watch as plain values."""
    for message in messages:
        yield Update(of(message.statistics), message.ended)


def _nodes(part: kan.NodeStatistics) -> NodeStatistics:
    numbers = (part.psi, part.js, part.wasserstein, part.psi_chance, part.outside, part.outside_before)
    psi, js, wasserstein, chance, outside, before = (np.frombuffer(one, "<f8") for one in numbers)
    bounds = np.split(np.frombuffer(part.bounds, "<f8"), np.cumsum(part.bound_counts)[:-1])
    nonfinite = np.frombuffer(part.nonfinite, "<u8")
    bounds = bounds * len(nonfinite) if len(bounds) == 1 else bounds
    ends = np.cumsum([len(row) + 1 for row in bounds])[:-1]
    return NodeStatistics(
        layer=part.layer,
        psi=psi,
        js=js,
        wasserstein=wasserstein,
        chance=chance,
        outside=outside,
        before=before,
        nonfinite=nonfinite,
        bounds=tuple(bounds),
        counts=tuple(np.split(np.frombuffer(part.counts, "<u8"), ends)),
        zones=np.frombuffer(part.zones, "<u8").reshape(-1, len(ZONES)),
        origins=tuple(part.origins) * (len(nonfinite) if len(part.origins) == 1 else 1),
        mean=np.frombuffer(part.mean, "<f8"),
        std=np.frombuffer(part.std, "<f8"),
        low=np.frombuffer(part.low, "<f8"),
        high=np.frombuffer(part.high, "<f8"),
    )
