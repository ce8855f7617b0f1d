"""`kanserve coverage NAME --input rows.csv`: where rows are on the grids of a model."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.contract.cli import tables
from kanexport.contract.cli.console import Exit, note, print_json
from kanexport.contract.cli.tables import Table
from kanserve.cli import input_rows, output_results, session
from kanserve.cli.options import add_client_options, add_model_options, add_row_options, index
from kanserve.client import chunking
from kanserve.client.explanation import EXTENSION, INSIDE, OUTSIDE, UNKNOWN, Coverage
from kanserve.client.model_info import Description
from kanserve.client.statistics import node_name
from kanserve.report.text_tables import bar

TEXT = """Say whether rows lie where a model was made for: on its grids, beside them, or outside.

Of every layer the nodes that it is given are looked at: for each row whether each is inside its grid, in the
extension of the grid, or outside, and by how many cells. What has no grid is held against the rows that the
export was given (--baseline), and the table says which it was.
"""
EXAMPLES = """examples:
  kanserve coverage digits --input rows.csv
  kanserve coverage digits --input rows.csv --json
  kanserve coverage digits --input rows.npy --output coverage.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser)
    parser.add_argument("--show", type=index, default=12, metavar="N", help="nodes in the table (12)")
    parser.add_argument(
        "--output",
        metavar="FILE.npz",
        help="write counts (rows, layers, 3), worst and cells (rows, layers), and the zone of every node, zones_0, "
        "zones_1 and so on: 0 unknown, 1 inside, 2 extension, 3 outside",
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    given = input_rows.contents(args.input)
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows: Any = input_rows.rows_for_all(described.inputs, given, array=args.array, names=described.names)
        with tables.bar("coverage", unit="rows", at_once=False) as report:
            found = chunking.coverage(client, described, rows, progress=report)
    if args.output:
        output_results.write(args.output, coverage_arrays(found))
    _print(args, described, found)
    return Exit.DONE


def _print(args: argparse.Namespace, described: Description, found: Coverage) -> None:
    arrays = coverage_arrays(found)
    if args.json:
        small = {name: arrays[name].tolist() for name in ("counts", "worst", "cells")}
        what = {"output": args.output, "shapes": output_results.shapes(arrays)} if args.output else small
        print_json({**document(described, found), **what})
    elif args.output:
        note(output_results.summary(args.output, arrays))
    else:
        layers(described, found).show()
        if (found.cells > 0).any():
            beyond(described, found, args.show).show()


LEGEND = "inside: on the grid; extension: beside it, as far as its outermost functions reach; outside: beyond that"
UNHELD = "held against none: a layer without grids, whose export was given no rows either (kanserve export --baseline)"
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


def coverage_arrays(found: Coverage) -> dict[str, Any]:
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
