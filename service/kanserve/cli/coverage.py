"""Command `kanserve coverage NAME --input rows.csv`: grid coverage of rows, by layer and node."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.shared.cli import tables
from kanexport.shared.cli.console import Exit, note, print_json
from kanexport.shared.cli.tables import Table
from kanserve.cli import input_rows, output_results, session
from kanserve.cli.options import add_client_options, add_model_options, add_row_options, add_show_option
from kanserve.client import chunking
from kanserve.client.explanation import EXTENSION, INSIDE, OUTSIDE, UNKNOWN, Coverage
from kanserve.client.statistics import ZONES, node_name
from kanserve.report.text_tables import bar
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
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser)
    add_show_option(parser, 12, "nodes")
    parser.add_argument(
        "--output",
        metavar="FILE.npz",
        help="write arrays to this file: counts (rows, layers, 3), worst and cells (rows, layers), and zones_0, "
        "zones_1 and so on with the zone of each node: 0 unknown, 1 in grid, 2 extended grid, 3 out of grid "
        "(default: print tables)",
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    source = input_rows.contents(args.input)
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows: Any = input_rows.rows_for_all(described.inputs, source, array=args.array, names=described.names)
        with tables.bar("coverage", unit="rows", at_once=False) as report:
            result = chunking.coverage(client, described, rows, progress=report)
    if args.output:
        output_results.write(args.output, coverage_arrays(result))
    _print(args, described, result)
    return Exit.DONE


def _print(args: argparse.Namespace, described: Description, result: Coverage) -> None:
    arrays = coverage_arrays(result)
    if args.json:
        small = {name: arrays[name].tolist() for name in ("counts", "worst", "cells")}
        what = {"output": args.output, "shapes": output_results.shapes(arrays)} if args.output else small
        print_json({**document(described, result), **what})
    elif args.output:
        note(output_results.summary(args.output, arrays))
    else:
        layers(described, result).show()
        if (result.cells > 0).any():
            out_of_grid_nodes(described, result, args.show).show()


LEGEND = "extended: outside the grid, within its outermost basis functions; out of grid: outside both"
UNDEFINED = "definition none: the layer has no grid, and the export has no baseline rows (kanserve export --baseline)"
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Node:
    """Coverage of one input node of a layer: shares of the rows, at all positions."""

    layer: int
    at: int
    name: str
    in_grid: float
    extended_grid: float
    out_of_grid: float


def document(described: Description, result: Coverage) -> dict[str, Any]:
    """JSON document of everything except the arrays."""
    return {
        "model": described.name,
        "version": result.version,
        "digest": described.digest,
        "rows": len(result.counts),
        "rows_out_of_grid": int(result.out_of_grid.any(axis=1).sum()),
        "layers": [_layer(described, result, at) for at in range(len(result.definitions))],
        "nodes": [
            {
                "layer": node.layer,
                "node": node.at,
                "name": node.name,
                "in_grid": node.in_grid,
                "extended_grid": node.extended_grid,
                "out_of_grid": node.out_of_grid,
            }
            for node in nodes(described, result)
        ],
    }


def coverage_arrays(result: Coverage) -> dict[str, Any]:
    """Arrays of the output file by name."""
    zones = {f"zones_{at}": zones for at, zones in enumerate(result.zones)}
    return {"counts": result.counts, "worst": result.worst, "cells": result.cells, **zones}


def nodes(described: Description, result: Coverage) -> list[Node]:
    """Nodes with a defined range. Those that are out of grid most often come first."""
    every = []
    for layer, zones in enumerate(result.zones):
        flat = zones.reshape(-1, zones.shape[-1])
        shares = [(flat == zone).mean(axis=0) for zone in (INSIDE, EXTENSION, OUTSIDE)]
        for at in np.flatnonzero((flat != UNKNOWN).any(axis=0)).tolist():
            every.append(Node(layer, at, node_name(described, layer, at), *(float(share[at]) for share in shares)))
    return sorted(every, key=lambda node: (-node.out_of_grid, -node.extended_grid, node.layer, node.at))


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
    """The facts of one layer. Shares refer to the nodes with a defined range."""
    total = result.counts[:, at].sum(axis=0)
    known = int(total.sum())
    shares = dict(zip(ZONES, total.tolist(), strict=True))
    return {
        "layer": at,
        "definition": result.definitions[at],
        **{zone: count / known if known else None for zone, count in shares.items()},
        "rows_out_of_grid": int(result.out_of_grid[:, at].sum()),
        "farthest": _farthest(described, result, at),
    }


def _farthest(described: Description, result: Coverage, at: int) -> dict[str, Any] | None:
    """The node with the value farthest outside its grid, over all rows. None if all values are inside."""
    cells = result.cells[:, at]
    if not (cells > 0).any():
        return None
    row = int(cells.argmax())
    width = result.zones[at].shape[-1]
    node = int(result.worst[row, at]) % width
    return {"row": row, "node": node, "name": node_name(described, at, node), "cells": float(cells[row])}
