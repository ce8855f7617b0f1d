"""Coverage for people, as tables, and for machines, as a document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.shared.tables import Table
from kanserve.client.coverage import EXTENSION, INSIDE, OUTSIDE, UNKNOWN, Coverage
from kanserve.client.description import Description
from kanserve.client.statistics import node_name
from kanserve.console.drawing import bar

LEGEND = "inside: on the grid; extension: beside it, as far as its outermost functions reach; outside: beyond that"
UNHELD = "held against none: a layer without grids, whose export was given no rows either (kanserve export --reference)"
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Node:
    """One node that a layer is given, over some rows: shares of them, at all positions."""

    layer: int
    at: int
    name: str
    inside: float
    extension: float
    outside: float


def document(described: Description, found: Coverage) -> dict[str, Any]:
    """For JSON: all that there is but the arrays."""
    return {
        "model": described.name,
        "version": found.version,
        "digest": described.digest,
        "rows": len(found.counts),
        "rows_outside": int(found.outside.any(axis=1).sum()),
        "layers": [_layer(described, found, at) for at in range(len(found.definitions))],
        "nodes": [
            {
                "layer": node.layer,
                "node": node.at,
                "name": node.name,
                "inside": node.inside,
                "extension": node.extension,
                "outside": node.outside,
            }
            for node in nodes(described, found)
        ],
    }


def arrays(found: Coverage) -> dict[str, Any]:
    """What a file holds."""
    zones = {f"zones_{at}": zones for at, zones in enumerate(found.zones)}
    return {"counts": found.counts, "worst": found.worst, "cells": found.cells, **zones}


def nodes(described: Description, found: Coverage) -> list[Node]:
    """Those that are held against something, those first that are outside most often."""
    every = []
    for layer, zones in enumerate(found.zones):
        flat = zones.reshape(-1, zones.shape[-1])
        shares = [(flat == zone).mean(axis=0) for zone in (INSIDE, EXTENSION, OUTSIDE)]
        for at in np.flatnonzero((flat != UNKNOWN).any(axis=0)).tolist():
            every.append(Node(layer, at, node_name(described, layer, at), *(float(share[at]) for share in shares)))
    return sorted(every, key=lambda node: (-node.outside, -node.extension, node.layer, node.at))


def layers(described: Description, found: Coverage) -> Table:
    """One row a layer."""
    rows = len(found.counts)
    table = Table(
        f"{described.name} version {found.version}: {rows} rows, {int(found.outside.any(axis=1).sum())} with a node "
        "outside",
        ("layer", "held against", "inside", "extension", "outside", "rows outside", "farthest", "cells beyond"),
        numbers=("layer", "inside", "extension", "outside", "rows outside", "cells beyond"),
        caption=(LEGEND, *((UNHELD,) * ("none" in found.definitions))),
    )
    for at in range(len(found.definitions)):
        facts = _layer(described, found, at)
        far = facts["farthest"]
        table.add(
            str(at),
            facts["definition"],
            *(NOTHING if facts[zone] is None else f"{facts[zone]:.1%}" for zone in ("inside", "extension", "outside")),
            str(facts["rows_outside"]),
            f"{far['name']}, row {far['row']}" if far else NOTHING,
            f"{far['cells']:.3g}" if far else NOTHING,
        )
    return table


def beyond(described: Description, found: Coverage, show: int) -> Table:
    """The nodes that are beyond their grids on some rows, one a row."""
    every = [node for node in nodes(described, found) if node.outside or node.extension]
    table = Table(
        "nodes beyond their grids",
        ("node", "extension", "outside", ""),
        numbers=("extension", "outside"),
        caption=(f"{min(show, len(every))} of {len(every)}; of the rows, at all positions",),
    )
    for node in every[:show]:
        table.add(node.name, f"{node.extension:.1%}", f"{node.outside:.1%}", bar(node.outside, 1.0))
    return table


def _layer(described: Description, found: Coverage, at: int) -> dict[str, Any]:
    """The facts of one layer; shares are of the nodes that are held against something."""
    total = found.counts[:, at].sum(axis=0)
    known = int(total.sum())
    shares = dict(zip(("inside", "extension", "outside"), total.tolist(), strict=True))
    return {
        "layer": at,
        "definition": found.definitions[at],
        **{zone: count / known if known else None for zone, count in shares.items()},
        "rows_outside": int(found.outside[:, at].sum()),
        "farthest": _farthest(described, found, at),
    }


def _farthest(described: Description, found: Coverage, at: int) -> dict[str, Any] | None:
    """The node that is the farthest beyond its grid on any row, None if none is."""
    cells = found.cells[:, at]
    if not (cells > 0).any():
        return None
    row = int(cells.argmax())
    width = found.zones[at].shape[-1]
    node = int(found.worst[row, at]) % width
    return {"row": row, "node": node, "name": node_name(described, at, node), "cells": float(cells[row])}
