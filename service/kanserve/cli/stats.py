"""Command `kanserve stats NAME`: statistics of the live traffic of a model, by layer and node."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np

from kanexport.shared.cli.console import Exit, note, print_json
from kanexport.shared.cli.tables import Table
from kanexport.shared.manifest import HYBRID
from kanserve.cli import session
from kanserve.cli.options import (
    add_client_options,
    add_model_options,
    add_show_option,
    flag,
    index,
    option,
    positive_seconds,
    print_result,
)
from kanserve.client import fleet, targets
from kanserve.client.statistics import MOMENTS, OUTPUT, ZONES, NodeStatistics, Statistics, node_name
from kanserve.plotting.characters import bar, line
from kanserve.types import Description

TEXT = """Show traffic statistics of a model: the shares of input, hidden-node and output values that are in grid, in
the extended grid or out of grid, and the distribution of predicted classes.

The command needs no baseline. To compare the traffic with training data, use `kanserve drift`. With the addresses of
several servers, it adds their counts; --watch and --reset need one server.
"""
EXAMPLES = """examples:
  kanserve stats digits
  kanserve stats digits --latest --show 40
  kanserve stats digits --watch --interval 1 --updates 3
  kanserve stats digits --reset                                   # needs the role admin
  kanserve stats digits --url 10.0.0.1:8001,10.0.0.2:8001         # the sum of both servers
"""
EXITS = session.EXITS_OF_SEVERAL


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser)
    how = parser.add_mutually_exclusive_group()
    flag(how, "--watch", "print the statistics repeatedly, until the version is replaced or you press Ctrl-C")
    how.add_argument("--reset", action="store_true", help="reset the counts, and print no statistics (default: off)")
    parser.add_argument(
        "--latest", action="store_true", help="only the latest rows, a few hundred (default: off, all rows)"
    )
    option(
        parser, "--interval", "SECONDS", "time between two updates of --watch in seconds", 2.0, type=positive_seconds
    )
    option(parser, "--updates", "N", "number of updates of --watch; 0: no limit", 0, type=index)
    add_show_option(parser, 8, "nodes, and of classes,")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 for a partial sum of several servers. Raises CommandError."""
    source = "live" if args.latest else "total"
    if args.reset or args.watch:
        with session.connection(args, model=args.name) as client:
            targets.require_single(args.url, "--watch" if args.watch else "--reset")
            if args.watch:
                updates = client.watch_statistics(
                    args.name, args.model_version, source=source, interval=args.interval, updates=args.updates
                )
                known: Description | None = None  # the version may be unloaded with the last update
                for update in updates:
                    known = known or client.describe(args.name, update.statistics.version)
                    if args.json:
                        print_json(stats_document(known, update.statistics) | {"end_reason": update.end_reason})
                    else:
                        _show(known, update.statistics, args)
                    if update.end_reason and not args.json:
                        note(f"end of the updates: {update.end_reason}")
                return Exit.DONE
            since = client.reset_statistics(args.name, args.model_version)
        return print_result(args, {"model": args.name, "since": since}, f"{args.name}: counts reset")
    with session.connections(args, model=args.name) as clients:
        replies = fleet.ask(clients, lambda each: each.statistics(args.name, args.model_version, source=source))
        statistics = fleet.added(replies)
        described = clients[next(iter(replies.by_server))].describe(args.name, statistics.version)
    _show(described, statistics, args, session.document_of_several(replies))
    return session.end_of_several(replies)


def _show(
    described: Description,
    statistics: Statistics,
    args: argparse.Namespace,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    if args.json:
        print_json({**stats_document(described, statistics), **more})
        return
    began = datetime.fromtimestamp(statistics.since, UTC).strftime("%Y-%m-%d %H:%M:%S")
    what = "the latest" if statistics.source == "live" else "all"
    processes = f"{statistics.processes} process{'es' * (statistics.processes != 1)}"
    table = Table(
        f"{described.name} version {statistics.version}: {statistics.rows_seen} rows since {began} UTC",
        ("values", "nodes", *NAMES, "not finite", "most out of grid"),
        numbers=("nodes", *NAMES, "not finite"),
        caption=(f"{what} {statistics.row_count} analysed rows, counted by {processes}", *LEGEND),
    )
    for part in statistics.nodes:
        name = "outputs" if part.layer == OUTPUT else f"layer {part.layer}"
        if part.layer == 0 and described.family != HYBRID:
            name = "inputs"
        counts = part.zones[_known(part)].sum(axis=0)
        shares = [f"{count / counts.sum():.1%}" if counts.sum() else "-" for count in counts]
        outside = _outside(part)
        at = int(outside.argmax())
        most = f"{node_name(described, part.layer, at)}, {outside[at]:.1%} out of grid" if outside[at] else ""
        table.add(name, str(len(part.mean)), *shares, str(int(part.nonfinite.sum())), most)
    table.show()
    _nodes(described, statistics, args.show).show()
    if statistics.classes.size and statistics.classes.sum():
        counts = statistics.classes
        order = np.argsort(-counts, kind="stable")[: args.show]
        what = "class" if described.names.classes else "output"
        table = Table(
            "",
            (what, "rows", "share", ""),
            numbers=("rows", "share"),
            caption=(f"{len(order)} of {len(counts)}: number of rows for which this output is the largest",),
        )
        for at in order.tolist():
            count = int(counts[at])
            table.add(
                described.names.output(at), str(count), f"{count / counts.sum():.1%}", bar(count, float(counts.max()))
            )
        table.show()


DRAWN = "drawn"
NAMES = tuple(zone.replace("_", " ") for zone in ZONES)
LEGEND = (
    "in grid; extended grid: fewer basis functions are active; out of grid: outside all knots",
    "-: no grid and no baseline rows (kanserve export --baseline), so out of grid is undefined",
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
                "nodes": [
                    {
                        "name": node_name(described, part.layer, at),
                        "origin": part.origins[at],
                        **dict(zip(ZONES, part.zones[at].tolist(), strict=True)),
                        "nonfinite": int(part.nonfinite[at]),
                        **{name: float(getattr(part, name)[at]) for name in MOMENTS},
                        "bounds": part.bounds[at].tolist(),
                        "counts": part.counts[at].tolist(),
                    }
                    for at in range(len(part.mean))
                ],
                "nonfinite": int(part.nonfinite.sum()),
                **dict(zip(ZONES, part.zones.sum(axis=0).tolist(), strict=True)),
            }
            for part in statistics.nodes
        ],
    }


def _known(part: NodeStatistics) -> Any:
    """[n], True for nodes with a defined range."""
    return np.array([origin != DRAWN for origin in part.origins])


def _outside(part: NodeStatistics) -> Any:
    """[n], the share of values out of grid; 0 for nodes without a defined range."""
    values = np.maximum(part.zones.sum(axis=1), 1)
    return np.where(_known(part), part.zones[:, ZONES.index("out_of_grid")] / values, 0.0)


def _nodes(described: Description, statistics: Statistics, show: int) -> Table:
    """Table of nodes. Those that are out of grid most often come first."""
    every = [(part, at, share) for part in statistics.nodes for at, share in enumerate(_outside(part))]
    every.sort(key=lambda entry: (-float(entry[2]), entry[0].layer == OUTPUT))
    numbers = (*MOMENTS, "out of grid")
    table = Table(
        "", ("node", *numbers, "values"), numbers=numbers, caption=(f"{min(show, len(every))} of {len(every)} nodes",)
    )
    for part, at, share in every[:show]:
        values = (float(getattr(part, name)[at]) for name in MOMENTS)
        moments = [f"{value:.3g}" if math.isfinite(value) else "-" for value in values]
        counts = part.counts[at].astype(float)
        outside = f"{share:.1%}" if part.origins[at] != DRAWN and counts.any() else "-"
        table.add(node_name(described, part.layer, at), *moments, outside, line(counts, 24) if counts.any() else "")
    return table
