"""Statistics of a model's traffic for people, as tables, and for machines, as a document."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np

from kanexport.manifest import HYBRID
from kanexport.shared.tables import Table
from kanserve.client.description import Description
from kanserve.client.statistics import OUTPUT, ZONES, NodeStatistics, Statistics
from kanserve.console.drawing import bar, line
from kanserve.console.drift_table import node_name

DRAWN = "drawn"
LEGEND = (
    "inside the grid, on its extension (beyond it, where fewer functions are at work), outside of all knots",
    "-: no grid and no reference rows (kanserve export --reference), so that nothing says what would be outside",
)


def document(described: Description, found: Statistics) -> dict[str, Any]:
    """For JSON: every node."""
    return {
        "model": described.name,
        "version": found.version,
        "digest": found.digest,
        "over": found.over,
        "rows": found.row_count,
        "rows_seen": found.rows_seen,
        "seconds": found.seconds,
        "since": found.since,
        "processes": found.processes,
        "classes": {described.names.output(at): count for at, count in enumerate(found.classes.tolist())},
        "layers": [
            {
                "layer": part.layer,
                "nodes": [_node(described, part, at) for at in range(len(part.mean))],
                "nonfinite": int(part.nonfinite.sum()),
                **dict(zip(ZONES, part.zones.sum(axis=0).tolist(), strict=True)),
            }
            for part in found.nodes
        ],
    }


def _node(described: Description, part: NodeStatistics, at: int) -> dict[str, Any]:
    return {
        "name": node_name(described, part, at),
        "cells_of": part.origins[at],
        **dict(zip(ZONES, part.zones[at].tolist(), strict=True)),
        "nonfinite": int(part.nonfinite[at]),
        **{name: float(getattr(part, name)[at]) for name in ("mean", "std", "low", "high")},
        "bounds": part.bounds[at].tolist(),
        "counts": part.counts[at].tolist(),
    }


def tables(described: Description, found: Statistics, show: int) -> Iterator[Table]:
    """Layers; the nodes that are outside most; which answers came."""
    yield _layers(described, found)
    yield _nodes(described, found, show)
    if found.classes.size and found.classes.sum():
        yield _classes(described, found, show)


def _layers(described: Description, found: Statistics) -> Table:
    began = datetime.fromtimestamp(found.since, UTC).strftime("%Y-%m-%d %H:%M:%S")
    what = "the latest" if found.over == "live" else "all"
    table = Table(
        f"{described.name} version {found.version}: {found.rows_seen} rows since {began} UTC",
        ("", "nodes", *ZONES, "not finite", "furthest out"),
        numbers=("nodes", *ZONES, "not finite"),
        caption=(
            f"{what} {found.row_count} rows that were looked into, by {found.processes} process"
            + ("es" if found.processes != 1 else ""),
            *LEGEND,
        ),
    )
    for part in found.nodes:
        table.add(_layer(described, part), str(len(part.mean)), *_shares(part), *_lost(part), _worst(described, part))
    return table


def _layer(described: Description, part: NodeStatistics) -> str:
    if part.layer == OUTPUT:
        return "answers"
    return "inputs" if part.layer == 0 and described.family != HYBRID else f"layer {part.layer}"


def _known(part: NodeStatistics) -> Any:
    """[n]: of which nodes it is known what would be outside."""
    return np.array([origin != DRAWN for origin in part.origins])


def _shares(part: NodeStatistics) -> list[str]:
    counts = part.zones[_known(part)].sum(axis=0)
    return [f"{count / counts.sum():.1%}" if counts.sum() else "-" for count in counts]


def _lost(part: NodeStatistics) -> list[str]:
    return [str(int(part.nonfinite.sum()))]


def _outside(part: NodeStatistics) -> Any:
    """[n]: the share of values outside; 0 where nothing says what would be."""
    values = np.maximum(part.zones.sum(axis=1), 1)
    return np.where(_known(part), part.zones[:, ZONES.index("outside")] / values, 0.0)


def _worst(described: Description, part: NodeStatistics) -> str:
    shares = _outside(part)
    at = int(shares.argmax())
    return f"{node_name(described, part, at)}, {shares[at]:.1%} outside" if shares[at] else ""


def _nodes(described: Description, found: Statistics, show: int) -> Table:
    """Those first that are outside most."""
    every = [(part, at, share) for part in found.nodes for at, share in enumerate(_outside(part))]
    every.sort(key=lambda one: (-float(one[2]), one[0].layer == OUTPUT))
    numbers = ("mean", "std", "from", "to", "outside")
    table = Table(
        "", ("node", *numbers, "values"), numbers=numbers, caption=(f"{min(show, len(every))} of {len(every)} nodes",)
    )
    for part, at, share in every[:show]:
        moments = [_number(float(one[at])) for one in (part.mean, part.std, part.low, part.high)]
        counts = part.counts[at].astype(float)
        outside = f"{share:.1%}" if part.origins[at] != DRAWN and counts.any() else "-"
        table.add(node_name(described, part, at), *moments, outside, line(counts, 24) if counts.any() else "")
    return table


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _classes(described: Description, found: Statistics, show: int) -> Table:
    counts = found.classes
    order = np.argsort(-counts, kind="stable")[:show]
    what = "class" if described.names.classes else "largest"
    table = Table(
        "",
        (what, "answers", "share", ""),
        numbers=("answers", "share"),
        caption=(f"{len(order)} of {len(counts)}: which number of an answer was the largest",),
    )
    for at in order.tolist():
        count = int(counts[at])
        table.add(
            described.names.output(at), str(count), f"{count / counts.sum():.1%}", bar(count, float(counts.max()))
        )
    return table
