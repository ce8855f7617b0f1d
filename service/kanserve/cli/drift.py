"""`kanserve drift NAME`: whether data are still what they were."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kanexport.contract.cli.console import Exit, print_json
from kanexport.contract.cli.tables import Table
from kanexport.contract.manifest import HYBRID
from kanserve.cli import input_rows, session
from kanserve.cli.options import add_client_options, add_model_options, add_row_options, index
from kanserve.client.statistics import OUTPUT, NodeStatistics, Statistics, node_name
from kanserve.report.text_tables import line
from kanserve.types import Description

TEXT = """Say whether what a model is asked is still what it was made for: its inputs, the nodes inside and
its answers, beside what they were on the rows that the export was given (kanserve export --baseline).

A node has drifted if its PSI is above the no-drift threshold for this number of rows.
"""
EXAMPLES = """examples:
  kanserve drift wine
  kanserve drift wine --input today.csv
  kanserve drift wine --input today.csv --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser)
    add_row_options(parser, "the latest rows of the model's traffic")
    parser.add_argument("--show", type=index, default=20, metavar="N", help="nodes in the table (20)")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    given = input_rows.contents(args.input) if args.input else None
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows: Any = None
        if given is not None:
            rows = input_rows.rows_for_all(described.inputs, given, array=args.array, names=described.names)
        found = client.drift(described, rows)
    if args.json:
        print_json(drift_document(described, found))
    else:
        table(described, found, args.show).show()
    return Exit.DONE


LEGEND = (
    "drifted: PSI above the threshold, its 99th percentile without drift",
    "out of range: share of values outside the outermost knots, or outside the baseline range without knots",
)


@dataclass(frozen=True, slots=True)
class Node:
    """One node of some, in words and numbers."""

    name: str
    of: NodeStatistics
    at: int

    @property
    def drifted(self) -> bool:
        return bool(self.of.drifted[self.at])

    @property
    def excess(self) -> float:
        """The ratio of its PSI to the no-drift threshold."""
        return float(self.of.psi[self.at] / self.of.psi_threshold[self.at]) if self.of.psi_threshold[self.at] else 0.0


def nodes(described: Description, found: Statistics) -> list[Node]:
    """All, those first that moved most."""
    every = [
        Node(node_name(described, part.layer, at), part, at) for part in found.nodes for at in range(len(part.psi))
    ]
    return sorted(every, key=lambda one: -one.excess)


def drift_document(described: Description, found: Statistics) -> dict[str, Any]:
    """For JSON: every node."""
    every = nodes(described, found)
    return {
        "model": described.name,
        "version": found.version,
        "digest": described.digest,
        "source": found.source,
        "rows": found.row_count,
        "rows_seen": found.rows_seen,
        "seconds": found.seconds,
        "baseline": found.baseline,
        "baseline_rows": found.baseline_rows,
        "drifted": sum(one.drifted for one in every),
        "nodes": [
            {
                "name": one.name,
                "layer": one.of.layer,
                "node": one.at,
                "drifted": one.drifted,
                "psi": float(one.of.psi[one.at]),
                "psi_threshold": float(one.of.psi_threshold[one.at]),
                "js": float(one.of.js[one.at]),
                "wasserstein": float(one.of.wasserstein[one.at]),
                "out_of_range": float(one.of.out_of_range[one.at]),
                "baseline_out_of_range": float(one.of.baseline_out_of_range[one.at]),
                "nonfinite": int(one.of.nonfinite[one.at]),
            }
            for one in every
        ],
    }


def table(described: Description, found: Statistics, show: int) -> Table:
    """One node a row, those first that moved most."""
    every = nodes(described, found)
    rows = Table(
        f"{described.name} version {found.version}: {_over_threshold(found)}, "
        f"beside {found.baseline_rows} of {found.baseline}",
        ("node", "drifted", "PSI", "threshold", "cells moved", "out of range", "baseline", "values now"),
        numbers=("PSI", "threshold", "cells moved", "out of range", "baseline"),
        caption=(*_counts(described, found), *LEGEND),
    )
    for one in every[:show]:
        part, at = one.of, one.at
        rows.add(
            one.name,
            "yes" if one.drifted else "no",
            f"{part.psi[at]:.3g}",
            f"{part.psi_threshold[at]:.3g}",
            f"{part.wasserstein[at]:.2g}",
            f"{part.out_of_range[at]:.1%}",
            f"{part.baseline_out_of_range[at]:.1%}",
            line(part.counts[at].astype(float), 24),
        )
    return rows


def _over_threshold(found: Statistics) -> str:
    if found.source == "live":
        return f"the latest {found.row_count} rows of some {found.rows_seen} in {found.seconds:.0f} s"
    return f"{found.row_count} rows"


def _counts(described: Description, found: Statistics) -> Iterator[str]:
    """How many have drifted, of each kind."""
    inside = described.family == HYBRID
    for part in found.nodes:
        kind = "answers" if part.layer == OUTPUT else f"nodes of layer {part.layer}"
        kind = "inputs" if part.layer == 0 and not inside else kind
        lost = int(part.nonfinite.sum())
        yield f"{int(part.drifted.sum())} of {len(part.psi)} {kind} drifted" + (f"; {lost} not finite" if lost else "")
