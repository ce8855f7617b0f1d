"""Statistics of a model's nodes and their drift from the baseline, as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.manifest import HYBRID
from kanserve.client import encoding, errors
from kanserve.client.encoding import from_fields
from kanserve.client.results import check_version
from kanserve.pb import kan_pb2 as kan
from kanserve.types import Description

Floats = NDArray[np.float64]
OUTPUT = -1
MEASURES = ("psi", "psi_threshold", "js", "wasserstein", "out_of_range", "baseline_out_of_range")  # of drift
COMPARED = (*MEASURES[:2], "drifted", *MEASURES[2:])
MOMENTS = ("mean", "std", "min", "max")
ZONES = ("in_grid", "extended_grid", "out_of_grid")


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Statistics of the input nodes of `layer`, or of the outputs (-1). Each array has one entry per node [n].

    psi                    population stability index against the baseline
    js                     Jensen-Shannon divergence in bits
    wasserstein            Wasserstein distance in bins
    psi_threshold          99th percentile of psi without drift, for all nodes of the model together
    out_of_range           share of values outside the bins, in the window
    baseline_out_of_range  share of values outside the bins, in the baseline
    nonfinite              number of values that are not finite
    bounds                 by node, the bounds of the bins
    counts                 by node, the number of values below the bins, in each bin, and above them
    zones                  [n, 3], number of values in the grid, on the extended grid and out of the grid
    origins                origin of the bins: "grid", "reference" or "drawn" (out of range has no meaning then)
    mean, std, min, max    moments and extremes of the finite values
    baseline_counts        by node, `counts` of the baseline rows

    Without a baseline, the six arrays up to `baseline_out_of_range` are empty, and so is `baseline_counts`.
    """

    layer: int
    psi: Floats
    js: Floats
    wasserstein: Floats
    psi_threshold: Floats
    out_of_range: Floats
    baseline_out_of_range: Floats
    nonfinite: NDArray[np.uint64]
    bounds: tuple[Floats, ...]
    counts: tuple[NDArray[np.uint64], ...]
    zones: NDArray[np.uint64]
    origins: tuple[str, ...]
    mean: Floats
    std: Floats
    min: Floats
    max: Floats
    baseline_counts: tuple[NDArray[np.uint64], ...] = ()

    @property
    def drifted(self) -> NDArray[np.bool_]:
        """Flags [n] of the nodes whose PSI is above the threshold."""
        return np.asarray(self.psi > self.psi_threshold)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a model over `row_count` rows.

    source         the rows: "rows" of the caller, the latest "live" traffic, or the "total" analysed traffic
    baseline       name of the baseline file of the export, if there is one
    baseline_rows  number of its rows
    rows_seen      number of rows of the traffic
    seconds        time in which the model served them
    since          start of that time, in seconds since the epoch
    processes      number of processes that counted
    classes        [C], how often each output number was the largest; empty if that has no meaning
    """

    version: str
    source: str
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

    def to_frame(self, described: Description) -> Any:
        """A pandas DataFrame with a line for each node: its name, its layer (-1: the outputs), its number there, and
        its figures. Raises ImportError without pandas."""
        lines: dict[str, list[Any]] = {"name": [], "layer": [], "node": []}
        figures = (*MOMENTS, "nonfinite", *(COMPARED if self.baseline_rows else ()))
        for part in self.nodes:
            count = range(len(part.nonfinite))
            lines["layer"] += [part.layer] * len(count)
            lines["node"] += count
            lines["name"] += [node_name(described, part.layer, at) for at in count]
        values = {figure: np.concatenate([getattr(part, figure) for part in self.nodes]) for figure in figures}
        return encoding.frame(lines | values)


@dataclass(frozen=True, slots=True)
class Update:
    """Message of a watch. `end_reason` of the last message says why the watch ended; it is empty before."""

    statistics: Statistics
    end_reason: str


def node_name(described: Description, layer: int, at: int) -> str:
    """Name of a node, or its position if it has none."""
    if layer == OUTPUT:
        return described.names.output(at)
    if layer == 0 and described.family != HYBRID:
        return described.names.feature(at)
    return f"layer {layer}, node {at}"


def compared(statistics: Statistics, described: Description) -> Statistics:
    """Statistics with a baseline, unchanged. Raises NotSupported if there is none, ValueError for those of another
    version."""
    check_version(statistics.version, described.version)
    if not statistics.baseline_rows:
        raise errors.from_status(
            "FAILED_PRECONDITION",
            f"model '{described.name}' has no baseline to compare its rows with",
            error_code="baseline-missing",
            hint="export the model with --baseline FILE",
        )
    return statistics


def statistics_of(message: kan.GetStatisticsResponse) -> Statistics:
    """The response as plain values."""
    nodes = []
    for part in message.nodes:
        figures = {name: np.frombuffer(getattr(part, name), "<f8") for name in (*MEASURES, *MOMENTS)}
        nonfinite = np.frombuffer(part.nonfinite, "<u8")
        bounds = np.split(np.frombuffer(part.bounds, "<f8"), np.cumsum(part.bound_counts)[:-1])
        bounds = bounds * len(nonfinite) if len(bounds) == 1 else bounds
        ends = np.cumsum([len(row) + 1 for row in bounds])[:-1]
        counts, baseline = (np.frombuffer(packed, "<u8") for packed in (part.counts, part.baseline_counts))
        nodes.append(
            NodeStatistics(
                layer=part.layer,
                **figures,
                nonfinite=nonfinite,
                bounds=tuple(bounds),
                counts=tuple(np.split(counts, ends)),
                zones=np.frombuffer(part.zones, "<u8").reshape(-1, len(ZONES)),
                origins=tuple(part.origins) * (len(nonfinite) if len(part.origins) == 1 else 1),
                baseline_counts=tuple(np.split(baseline, ends)) if part.baseline_counts else (),
            )
        )
    return from_fields(
        Statistics,
        message,
        version=message.model_version,
        nodes=tuple(nodes),
        classes=np.array(message.classes, np.int64),
    )


def updates_of(messages: Iterable[kan.StatisticsUpdate]) -> Iterator[Update]:
    """The messages of a watch as plain values."""
    return iter([Update(statistics_of(message.statistics), message.end_reason) for message in messages])
