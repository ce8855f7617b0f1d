"""Edges for people, as a table, and for machines, as a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kanexport.manifest import arrows
from kanexport.shared.tables import Table
from kanserve.client.description import Description
from kanserve.console.edge_facts import BINS, Survey

BARS = "▁▂▃▄▅▆▇█"
EMPTY = "·"
LEGEND = (
    "share: of the edges asked for in the layer",
    f"distribution: how many values of φ lie in each of {BINS} equal parts of min to max, {EMPTY} for none; "
    "it is no curve of φ over its input",
)


def document(described: Description, layers: Sequence[int], row_count: int) -> dict[str, Any]:
    """What a query asked, for JSON: the model, the rows, the layers by index."""
    return {
        "model": described.name,
        "version": described.version,
        "digest": described.digest,
        "edge_class": described.edge_class,
        "rows": row_count,
        "layers": [
            {
                "index": at,
                "name": described.layers[at].name,
                "edge_class": described.layers[at].edge_class,
                "positions": described.layers[at].positions,
            }
            for at in layers
        ],
    }


def strongest(described: Description, survey: Survey) -> list[dict[str, Any]]:
    """The edges for JSON, strongest first, with what their ends are called."""
    return [
        {
            **asdict(edge),
            "source_name": described.source(edge.layer, edge.source),
            "destination_name": described.destination(edge.layer, edge.destination),
        }
        for edge in survey.strongest
    ]


def table(described: Description, survey: Survey, row_count: int) -> Table:
    """The strongest edges, one a row."""
    strongest_first = Table(
        f"{described.name} version {described.version}: {described.family}, {arrows(described.shapes)}; "
        f"{row_count} rows",
        ("edge", "mean |φ|", "share", "min", "distribution of values", "max", "symbolic"),
        numbers=("mean |φ|", "share", "min"),
        caption=(
            f"{len(survey.strongest)} of {survey.total} edges, by mean |φ|",
            *LEGEND,
            *_remarks(described, survey.layers),
        ),
    )
    for edge in survey.strongest:
        name = f" ({edge.layer_name})" if edge.layer_name else ""
        strongest_first.add(
            f"{edge.layer}{name}: {described.source(edge.layer, edge.source)} → "
            f"{described.destination(edge.layer, edge.destination)}",
            f"{edge.mean_abs:.4g}",
            f"{edge.share:.1%}",
            f"{edge.minimum:.4g}",
            bars(edge.histogram),
            f"{edge.maximum:.4g}",
            edge.symbolic,
        )
    return strongest_first


def bars(counts: Sequence[int]) -> str:
    """Counts as bars; an empty bin is a dot."""
    top = max(counts) or 1
    return "".join(EMPTY if not n else BARS[round(n / top * (len(BARS) - 1))] for n in counts)


def _remarks(described: Description, layers: Sequence[int]) -> list[str]:
    """What a reader must know of the layers in the table."""
    mixed = [str(at) for at in layers if described.layers[at].edge_class == "B"]
    spread = [
        f"layer {at} runs at {' x '.join(map(str, described.layers[at].positions))}"
        for at in layers
        if described.layers[at].positions
    ]
    remarks = []
    if spread:
        remarks.append(f"positions: {', '.join(spread)}; the figures are over rows and positions")
    if mixed:
        remarks.append(f"class B, where a value depends on all sources of its row: layer {', '.join(mixed)}")
    return remarks
