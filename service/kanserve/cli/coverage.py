"""Command `kanserve coverage NAME --input rows.csv`: grid coverage of rows, by layer and node."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kanexport.shared.cli import tables
from kanexport.shared.cli.console import Exit, print_json
from kanexport.shared.cli.tables import Table
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_model_options, add_row_options, add_show_option, option
from kanserve.client import chunking
from kanserve.client.explanation import EXTENSION, INSIDE, OUTSIDE, UNKNOWN, Coverage
from kanserve.client.statistics import ZONES, node_name
from kanserve.plotting.characters import bar
from kanserve.report import descriptions
from kanserve.tables import output_results
from kanserve.types import Description

TEXT = """Check rows against the training domain of a model: the grids of its layers.

For each layer, the tables count the node values that are in grid, in the extended grid, or out of grid. They also show
how many grid intervals the farthest value is outside. A layer without grids is compared with the baseline rows of the
export (kanserve export --baseline). The column "definition" shows which of them was used.
"""
EXAMPLES = """examples:
  kanserve coverage digits --input examples/digits.csv
  kanserve coverage digits --input examples/digits.csv --json
  kanserve coverage digits --input examples/digits.csv --output coverage.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser, files=True)
    add_row_options(parser)
    add_show_option(parser, 12, "nodes")
    text = (
        "write arrays to this file: counts (rows, layers, 3), worst and cells (rows, layers), and zones_0, zones_1 "
        "and so on with the zone of each node: 0 unknown, 1 in grid, 2 extended grid, 3 out of grid"
    )
    option(parser, "--output", "FILE.npz", text, shown="print tables")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    with (
        session.queried(args) as (client, described, rows),
        tables.bar("coverage", unit="rows", at_once=False) as report,
    ):
        result = chunking.coverage(client, described, rows, progress=report)
    arrays: dict[str, Any] = {"counts": result.counts, "worst": result.worst, "cells": result.cells}
    if args.output:
        zones = {f"zones_{at}": zones for at, zones in enumerate(result.zones)}
        output_results.finish(args, arrays | zones, document(described, result))
    elif args.json:
        print_json({**document(described, result), **{name: array.tolist() for name, array in arrays.items()}})
    else:
        layers(described, result).show()
        if (result.cells > 0).any():
            out_of_grid_nodes(described, result, args.show).show()
    return Exit.DONE


LEGEND = "extended: outside the grid, within its outermost basis functions; out of grid: outside both"
UNDEFINED = "definition none: the layer has no grid, and the export has no baseline rows (kanserve export --baseline)"
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Node:
    """Coverage of one input node of a layer: shares of the rows, at all positions."""

    layer: int
    node: int
    name: str
    in_grid: float
    extended_grid: float
    out_of_grid: float


def document(described: Description, result: Coverage) -> dict[str, Any]:
    """JSON document of everything except the arrays."""
    return {
        **descriptions.identity(described, result.version),
        "rows": len(result.counts),
        "rows_out_of_grid": int(result.out_of_grid.any(axis=1).sum()),
        "layers": [_layer(described, result, at) for at in range(len(result.definitions))],
        "nodes": [asdict(node) for node in nodes(described, result)],
    }


def nodes(described: Description, result: Coverage) -> list[Node]:
    """Nodes with a defined range. Those that are out of grid most often come first."""
    every = []
    for layer, zones in enumerate(result.zones):
        flat = zones.reshape(-1, zones.shape[-1])
        shares = [(flat == zone).mean(axis=0) for zone in (INSIDE, EXTENSION, OUTSIDE)]
        for at in np.flatnonzero((flat != UNKNOWN).any(axis=0)).tolist():
            every.append(Node(layer, at, node_name(described, layer, at), *(float(share[at]) for share in shares)))
    return sorted(every, key=lambda node: (-node.out_of_grid, -node.extended_grid, node.layer, node.node))


def layers(described: Description, result: Coverage) -> Table:
    """Table with one row per layer."""
    rows = len(result.counts)
    table = Table(
        f"{described.name} version {result.version}: {rows} rows, {int(result.out_of_grid.any(axis=1).sum())} with a "
        "node out of grid",
        (
            "layer",
            "definition",
            "in grid",
            "extended",
            "out of grid",
            "rows out",
            "farthest",
            "intervals outside",
        ),
        numbers=("layer", "in grid", "extended", "out of grid", "rows out", "intervals outside"),
        caption=(LEGEND, *((UNDEFINED,) * ("none" in result.definitions))),
    )
    for at in range(len(result.definitions)):
        facts = _layer(described, result, at)
        far = facts["farthest"]
        table.add(
            str(at),
            facts["definition"],
            *(NOTHING if facts[zone] is None else f"{facts[zone]:.1%}" for zone in ZONES),
            str(facts["rows_out_of_grid"]),
            f"{far['name']}, row {far['row']}" if far else NOTHING,
            f"{far['cells']:.3g}" if far else NOTHING,
        )
    return table


def out_of_grid_nodes(described: Description, result: Coverage, show: int) -> Table:
    """Table of the nodes with values outside their grids, one per line."""
    every = [node for node in nodes(described, result) if node.out_of_grid or node.extended_grid]
    table = Table(
        "nodes with values outside their grids",
        ("node", "extended", "out of grid", ""),
        numbers=("extended", "out of grid"),
        caption=(f"{min(show, len(every))} of {len(every)} nodes; shares of the rows, at all positions",),
    )
    for node in every[:show]:
        table.add(node.name, f"{node.extended_grid:.1%}", f"{node.out_of_grid:.1%}", bar(node.out_of_grid, 1.0))
    return table


def _layer(described: Description, result: Coverage, at: int) -> dict[str, Any]:
    """The facts of one layer. Shares refer to the nodes with a defined range. `farthest`: the node with the value
    farthest outside its grid, over all rows; None if all values are inside."""
    total = result.counts[:, at].sum(axis=0)
    known = int(total.sum())
    shares = dict(zip(ZONES, total.tolist(), strict=True))
    cells, farthest = result.cells[:, at], None
    if (cells > 0).any():
        row = int(cells.argmax())
        node = int(result.worst[row, at]) % result.zones[at].shape[-1]
        name = node_name(described, at, node)
        farthest = {"row": row, "node": node, "name": name, "cells": float(cells[row])}
    return {
        "layer": at,
        "definition": result.definitions[at],
        **{zone: count / known if known else None for zone, count in shares.items()},
        "rows_out_of_grid": int(result.out_of_grid[:, at].sum()),
        "farthest": farthest,
    }
