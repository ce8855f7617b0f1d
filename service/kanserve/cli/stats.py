"""Command `kanserve stats NAME`: statistics of the live traffic of a model, by layer and node."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np

from kanexport.contract.cli.console import Exit, note, print_json, say
from kanexport.contract.cli.tables import Table
from kanexport.contract.manifest import HYBRID
from kanserve.cli import session
from kanserve.cli.options import add_client_options, add_model_options, index, positive_seconds
from kanserve.client.statistics import OUTPUT, ZONES, NodeStatistics, Statistics, node_name
from kanserve.client.sync import Client
from kanserve.report.text_tables import bar, line
from kanserve.types import Description

TEXT = """Say what a model's traffic is: of its inputs, the nodes inside and its answers how many values lie inside the
grid, on its extension and outside, and which answers came how often. Needs no baseline; whether
this is as it was when the model was made says `kanserve drift`.
"""
EXAMPLES = """examples:
  kanserve stats wine
  kanserve stats wine --latest --show 40
  kanserve stats wine --watch --interval 5
  kanserve stats wine --json
  kanserve stats wine --reset                    counts anew from now on (role admin)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="again and again, until the version is replaced or Ctrl-C")
    how.add_argument("--reset", action="store_true", help="count anew, and print nothing else")
    parser.add_argument("--latest", action="store_true", help="the latest rows alone, some hundreds")
    parser.add_argument(
        "--interval", type=positive_seconds, default=2.0, metavar="S", help="seconds between two looks of --watch (2)"
    )
    parser.add_argument("--updates", type=index, default=0, metavar="N", help="looks of --watch (no limit)")
    parser.add_argument("--show", type=index, default=8, metavar="N", help="nodes, and classes, in the tables (8)")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    with session.connection(args, model=args.name) as client:
        if args.reset:
            _reset(client, args)
        elif args.watch:
            _watch(client, args)
        else:
            statistics = client.statistics(args.name, args.model_version, source=_over(args))
            _show(client.describe(args.name, statistics.version), statistics, args)
    return Exit.DONE


def _over(args: argparse.Namespace) -> str:
    return "live" if args.latest else "total"


def _reset(client: Client, args: argparse.Namespace) -> None:
    since = client.reset_statistics(args.name, args.model_version)
    if args.json:
        print_json({"model": args.name, "since": since})
    else:
        say(f"{args.name}: counted anew")


def _watch(client: Client, args: argparse.Namespace) -> None:
    """A document a line, or tables one below the other."""
    updates = client.watch_statistics(
        args.name, args.model_version, source=_over(args), interval=args.interval, updates=args.updates
    )
    described: Description | None = None  # the version may be gone with the last update
    for update in updates:
        described = described or client.describe(args.name, update.statistics.version)
        if args.json:
            print_json(stats_document(described, update.statistics) | {"end_reason": update.end_reason})
        else:
            _show(described, update.statistics, args)
        if update.end_reason and not args.json:
            note(f"no more: {update.end_reason}")


def _show(described: Description, statistics: Statistics, args: argparse.Namespace) -> None:
    if args.json:
        print_json(stats_document(described, statistics))
        return
    for table in tables(described, statistics, args.show):
        table.show()


DRAWN = "drawn"
NAMES = tuple(zone.replace("_", " ") for zone in ZONES)
LEGEND = (
    "in grid; extended grid (fewer basis functions are active); out of grid (outside all knots)",
    "-: no grid and no baseline rows (kanserve export --baseline), so that out of grid has no meaning",
)


def stats_document(described: Description, statistics: Statistics) -> dict[str, Any]:
    """JSON document with every node."""
    return {
        "model": described.name,
        "version": statistics.version,
        "digest": statistics.digest,
        "source": statistics.source,
        "rows": statistics.row_count,
        "rows_seen": statistics.rows_seen,
        "seconds": statistics.seconds,
        "since": statistics.since,
        "processes": statistics.processes,
        "classes": {described.names.output(at): count for at, count in enumerate(statistics.classes.tolist())},
        "layers": [
            {
                "layer": part.layer,
                "nodes": [_node(described, part, at) for at in range(len(part.mean))],
                "nonfinite": int(part.nonfinite.sum()),
                **dict(zip(ZONES, part.zones.sum(axis=0).tolist(), strict=True)),
            }
            for part in statistics.nodes
        ],
    }


def _node(described: Description, part: NodeStatistics, at: int) -> dict[str, Any]:
    return {
        "name": node_name(described, part.layer, at),
        "origin": part.origins[at],
        **dict(zip(ZONES, part.zones[at].tolist(), strict=True)),
        "nonfinite": int(part.nonfinite[at]),
        **{name: float(getattr(part, name)[at]) for name in ("mean", "std", "min", "max")},
        "bounds": part.bounds[at].tolist(),
        "counts": part.counts[at].tolist(),
    }


def tables(described: Description, statistics: Statistics, show: int) -> Iterator[Table]:
    """Layers; the nodes that are outside most; which answers came."""
    yield _layers(described, statistics)
    yield _nodes(described, statistics, show)
    if statistics.classes.size and statistics.classes.sum():
        yield _classes(described, statistics, show)


def _layers(described: Description, statistics: Statistics) -> Table:
    began = datetime.fromtimestamp(statistics.since, UTC).strftime("%Y-%m-%d %H:%M:%S")
    what = "the latest" if statistics.source == "live" else "all"
    table = Table(
        f"{described.name} version {statistics.version}: {statistics.rows_seen} rows since {began} UTC",
        ("", "nodes", *NAMES, "not finite", "farthest out"),
        numbers=("nodes", *NAMES, "not finite"),
        caption=(
            f"{what} {statistics.row_count} rows that were analysed, by {statistics.processes} process"
            + ("es" if statistics.processes != 1 else ""),
            *LEGEND,
        ),
    )
    for part in statistics.nodes:
        table.add(
            _layer(described, part), str(len(part.mean)), *_shares(part), *_nonfinite(part), _worst(described, part)
        )
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


def _nonfinite(part: NodeStatistics) -> list[str]:
    return [str(int(part.nonfinite.sum()))]


def _outside(part: NodeStatistics) -> Any:
    """[n]: the share of values outside; 0 where nothing says what would be."""
    values = np.maximum(part.zones.sum(axis=1), 1)
    return np.where(_known(part), part.zones[:, ZONES.index("out_of_grid")] / values, 0.0)


def _worst(described: Description, part: NodeStatistics) -> str:
    shares = _outside(part)
    at = int(shares.argmax())
    return f"{node_name(described, part.layer, at)}, {shares[at]:.1%} out of grid" if shares[at] else ""


def _nodes(described: Description, statistics: Statistics, show: int) -> Table:
    """Table of nodes. Those that are out of grid most often come first."""
    every = [(part, at, share) for part in statistics.nodes for at, share in enumerate(_outside(part))]
    every.sort(key=lambda entry: (-float(entry[2]), entry[0].layer == OUTPUT))
    numbers = ("mean", "std", "min", "max", "out of grid")
    table = Table(
        "", ("node", *numbers, "values"), numbers=numbers, caption=(f"{min(show, len(every))} of {len(every)} nodes",)
    )
    for part, at, share in every[:show]:
        moments = [_number(float(column[at])) for column in (part.mean, part.std, part.min, part.max)]
        counts = part.counts[at].astype(float)
        outside = f"{share:.1%}" if part.origins[at] != DRAWN and counts.any() else "-"
        table.add(node_name(described, part.layer, at), *moments, outside, line(counts, 24) if counts.any() else "")
    return table


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _classes(described: Description, statistics: Statistics, show: int) -> Table:
    counts = statistics.classes
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
