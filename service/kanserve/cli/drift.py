"""Command `kanserve drift NAME`: drift of the data from the baseline."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

from kanexport.shared.cli.console import print_json
from kanexport.shared.cli.tables import Table
from kanexport.shared.manifest import HYBRID
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_model_options, add_row_options, add_show_option
from kanserve.client import fleet
from kanserve.client.statistics import MEASURES, OUTPUT, NodeStatistics, Statistics, compared, node_name
from kanserve.plotting.characters import line
from kanserve.report import descriptions
from kanserve.types import Description

TEXT = """Detect data drift: compare live traffic, or the rows of a file, with the baseline rows of the export.

kanserve compares the distributions of inputs, hidden nodes and outputs. The model needs a baseline (kanserve export
--baseline). A node has drifted if its PSI is above the no-drift threshold for this number of rows.
With the addresses of several servers and without --input, the command adds their counts of live traffic.
"""
EXAMPLES = """examples:
  kanserve export tests/golden/checkpoints/pykan-hello-adapted/model --name watched --baseline examples/hello.csv
  kanserve drift watched --input examples/hello.csv
  kanserve drift watched --input examples/hello.csv --json
"""
EXITS = session.EXITS_OF_SEVERAL


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser)
    add_row_options(parser, "the latest rows of the model's traffic")
    add_show_option(parser, 20, "nodes")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 for a partial sum of several servers. Raises CommandError."""
    if args.input:
        with session.queried(args) as (client, described, rows):
            statistics = client.drift(described, rows)
        replies = fleet.Replies({args.url: statistics}, {})
    else:
        with session.connections(args, model=args.name) as clients:
            replies = fleet.ask(clients, lambda each: each.statistics(args.name, args.model_version, source="live"))
            summed = fleet.added(replies)
            described = clients[next(iter(replies.by_server))].describe(args.name, summed.version)
            statistics = compared(summed, described)
    if args.json:
        print_json(drift_document(described, statistics) | session.document_of_several(replies))
    else:
        table(described, statistics, args.show).show()
    return session.end_of_several(replies)


LEGEND = (
    "drift ratio: PSI divided by the no-drift threshold; drifted: above 1, any node in 1% of samples without drift",
    "shift: Wasserstein distance in histogram bins",
    "out of range: share of values outside the outermost knots, or outside the baseline range for a node without knots",
)


@dataclass(frozen=True, slots=True)
class Node:
    """Drift of one node, with its name."""

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


def nodes(described: Description, statistics: Statistics) -> list[Node]:
    """All nodes in descending order of drift."""
    every = [
        Node(node_name(described, part.layer, at), part, at) for part in statistics.nodes for at in range(len(part.psi))
    ]
    return sorted(every, key=lambda node: -node.excess)


def drift_document(described: Description, statistics: Statistics) -> dict[str, Any]:
    """JSON document with every node."""
    every = nodes(described, statistics)
    return {
        **descriptions.identity(described, statistics.version),
        "source": statistics.source,
        "rows": statistics.row_count,
        "rows_seen": statistics.rows_seen,
        "seconds": statistics.seconds,
        "baseline": statistics.baseline,
        "baseline_rows": statistics.baseline_rows,
        "drifted": sum(node.drifted for node in every),
        "nodes": [
            {
                "name": node.name,
                "layer": node.of.layer,
                "node": node.at,
                "drifted": node.drifted,
                **{figure: float(getattr(node.of, figure)[node.at]) for figure in MEASURES},
                "nonfinite": int(node.of.nonfinite[node.at]),
            }
            for node in every
        ],
    }


def table(described: Description, statistics: Statistics, show: int) -> Table:
    """Table with one row per node, in descending order of drift."""
    every = nodes(described, statistics)
    compared_rows = f"{statistics.row_count} rows"
    if statistics.source == "live":
        seen = f"about {statistics.rows_seen} rows in {statistics.seconds:.0f} s"
        compared_rows = f"the latest {statistics.row_count} of {seen}"
    counts = []
    for part in statistics.nodes:
        kind = "outputs" if part.layer == OUTPUT else f"nodes of layer {part.layer}"
        kind = "inputs" if part.layer == 0 and described.family != HYBRID else kind
        lost = int(part.nonfinite.sum())
        more = f"; {lost} values not finite" if lost else ""
        counts.append(f"{int(part.drifted.sum())} of {len(part.psi)} {kind} drifted{more}")
    rows = Table(
        f"{described.name} version {statistics.version}: {compared_rows} compared with "
        f"{statistics.baseline_rows} baseline rows of {statistics.baseline}",
        ("node", "drifted", "drift ratio", "PSI", "threshold", "shift", "out of range", "baseline", "current values"),
        numbers=("drift ratio", "PSI", "threshold", "shift", "out of range", "baseline"),
        caption=(*counts, *LEGEND),
    )
    for node in every[:show]:
        part, at = node.of, node.at
        rows.add(
            node.name,
            "yes" if node.drifted else "no",
            f"{node.excess:.3g}",
            f"{part.psi[at]:.3g}",
            f"{part.psi_threshold[at]:.3g}",
            f"{part.wasserstein[at]:.2g}",
            _share(part.out_of_range[at]),
            _share(part.baseline_out_of_range[at]),
            line(part.counts[at].astype(float), 24),
        )
    return rows


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
