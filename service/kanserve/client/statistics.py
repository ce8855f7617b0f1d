"""What a model's numbers are over rows, beside what they were: the answer of GetStatistics as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanserve.client.description import Description
from kanserve.client.rows import packed
from kanserve.pb import kan_pb2 as kan

Floats = NDArray[np.float64]
OUTPUT = -1


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Of the nodes that `layer` is given, the inputs for 0, or of the answers (-1); each array [n].

    `psi`, `js` (bits) and `wasserstein` (cells): how far the window is from the baseline; `chance`: what psi stays
    below in 99 of 100 windows in which nothing has changed, for all of these nodes together. `outside`, `before`: the
    share of values outside the cells, now and in the baseline. `nonfinite`: how many were not finite. `bounds` and
    `counts`: of each node, the cells and how many values lay below them, in each, and above them.
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

    @property
    def drifted(self) -> NDArray[np.bool_]:
        """[n]: whose values have moved, by more than chance."""
        return np.asarray(self.psi > self.chance)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Over `row_count` rows, those given or the latest of the traffic (`over`: rows or live), beside the
    `baseline_rows` of the file `baseline` that the export was given. Of live ones: `rows_seen` were answered in
    `seconds`."""

    version: str
    over: str
    row_count: int
    baseline: str
    baseline_rows: int
    nodes: tuple[NodeStatistics, ...]
    rows_seen: int
    seconds: float


def request(described: Description, rows: Any) -> kan.GetStatisticsRequest:
    """The message that asks for them."""
    given = {} if rows is None else packed(described, rows)
    return kan.GetStatisticsRequest(model_name=described.name, model_version=described.version, **given)


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
    )


def _nodes(part: kan.NodeStatistics) -> NodeStatistics:
    numbers = (part.psi, part.js, part.wasserstein, part.psi_chance, part.outside, part.outside_before)
    psi, js, wasserstein, chance, outside, before = (np.frombuffer(one, "<f8") for one in numbers)
    bounds = np.split(np.frombuffer(part.bounds, "<f8"), np.cumsum(part.bound_counts)[:-1])
    bounds = bounds * len(psi) if len(bounds) == 1 else bounds
    ends = np.cumsum([len(row) + 1 for row in bounds])[:-1]
    return NodeStatistics(
        layer=part.layer,
        psi=psi,
        js=js,
        wasserstein=wasserstein,
        chance=chance,
        outside=outside,
        before=before,
        nonfinite=np.frombuffer(part.nonfinite, "<u8"),
        bounds=tuple(bounds),
        counts=tuple(np.split(np.frombuffer(part.counts, "<u8"), ends)),
    )
