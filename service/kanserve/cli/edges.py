"""Command `kanserve edges NAME --input rows.npy`: edge values of the network for some rows."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kanexport.shared.cli import tables
from kanexport.shared.cli.console import Exit, print_json
from kanexport.shared.cli.tables import Table
from kanexport.shared.manifest import arrows
from kanserve.cli import edge_selection, session
from kanserve.cli.options import (
    InputError,
    add_client_options,
    add_model_options,
    add_row_options,
    add_show_option,
    index,
    option,
)
from kanserve.client import chunking
from kanserve.client.results import LayerValues
from kanserve.plotting.characters import BARS
from kanserve.report import descriptions
from kanserve.tables import output_results
from kanserve.types import Description

TEXT = """Query per-edge activations: the values φ of the edges for the rows of a file.

The table lists the edges with the largest mean magnitude |φ| over all rows and positions. The column "distribution"
divides the range from min to max into 16 equal bins, and a bar shows the number of values in its bin.
"""
EXAMPLES = """examples:
  kanserve edges digits --input examples/digits.csv --top-k 5
  kanserve edges digits --input examples/digits.csv --layer 0 --output edges.npz
  kanserve edges digits --input examples/digits.csv --edge 1:0:2 --json
  kanserve edges hello --input examples/hello.csv --path x0 y0
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_options(parser, files=True)
    add_row_options(parser)
    edge_selection.add_options(parser)
    text = "only the K edges of all layers with the largest magnitude; with --output, K of each layer; 0: all edges"
    option(parser, "--top-k", "K", text, 0, type=index)
    text = "only edges on the paths from this input to this output, by name or index"
    option(parser, "--path", ("INPUT", "OUTPUT"), text, nargs=2, shown="all edges")
    text = (
        "write arrays to this file: layer{l}_edges, float32 (rows, *positions, source, destination), or (rows, "
        "*positions, k) with --top-k; with a selection also layer{l}_sources and layer{l}_destinations"
    )
    option(parser, "--output", "FILE.npz", text, shown="print a table")
    add_show_option(parser, 20, "edges")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".npz",))
    with session.queried(args) as (client, described, rows):
        chosen, path = edge_selection.edges(described, args), _path(args, described)
        with tables.bar("edges", unit="rows", at_once=False) as report:
            values = chunking.edges(
                client,
                described,
                rows,
                layers=chosen.layers,
                sources=chosen.sources,
                destinations=chosen.destinations,
                path=path,
                top_k=args.top_k,
                progress=report,
            )
            if args.output:
                layers = list(values)
            else:
                survey = survey_edges(described, values, most=min(args.show, args.top_k or args.show))
    if args.output:
        selected = bool(args.source or args.destination or args.path or args.top_k)
        arrays: dict[str, Any] = {}
        for layer in layers:
            arrays[f"layer{layer.layer}_edges"] = layer.values
            if selected:
                arrays[f"layer{layer.layer}_sources"] = layer.sources
                arrays[f"layer{layer.layer}_destinations"] = layer.destinations
        row_count = len(layers[0].values) if layers else 0
        output_results.finish(args, arrays, document(described, [layer.layer for layer in layers], row_count))
    elif args.json:
        header = document(described, survey.layers, chunking.count(rows))
        entries = [
            {
                **asdict(edge),
                "source_name": described.source(edge.layer, edge.source),
                "destination_name": described.destination(edge.layer, edge.destination),
            }
            for edge in survey.strongest
        ]
        print_json({**header, "edges": entries})
    else:
        table(described, survey, chunking.count(rows)).show()
    return Exit.DONE


def _path(args: argparse.Namespace, described: Description) -> tuple[int, int] | None:
    """Raises InputError."""
    if args.path is None:
        return None
    if args.edge or args.source or args.destination:
        raise InputError(
            f"--path cannot be combined with {'--edge' if args.edge else '--source or --destination'}",
            code="arguments-conflict",
            hint="remove --edge, --source and --destination; --layer limits a path to some layers",
        )
    start, end = args.path
    return edge_selection.feature(described, "--path", start), edge_selection.output(described, "--path", end)


BINS = 16


@dataclass(frozen=True, slots=True)
class Strength:
    """Statistics of one edge over all rows and positions.

    mean_abs   mean magnitude of phi
    share      part of the summed mean magnitudes of the queried edges of its layer
    minimum    smallest value of phi
    maximum    largest value of phi
    histogram  counts of the finite values in 16 equal parts of minimum to maximum
    """

    layer: int
    layer_name: str
    source: int
    destination: int
    mean_abs: float
    share: float
    minimum: float
    maximum: float
    symbolic: str
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """Summary of the values of an edge query.

    layers     indices of the queried layers
    total      number of edges in them
    strongest  the strongest edges, in descending order
    """

    layers: tuple[int, ...]
    total: int
    strongest: tuple[Strength, ...]


def survey_edges(described: Description, values: Iterable[LayerValues], *, most: int) -> Survey:
    """The `most` strongest edges of all layers. The function drops the values of a layer after it has measured them."""
    layers, total, strongest = [], 0, []
    for part in values:
        nodes = part.sources.tolist(), part.destinations.tolist()
        # With `top_k`, the last axis has edges; otherwise, the last two have sources and destinations.
        selected = part.values.ndim == 2 + len(described.layers[part.layer].positions)
        pairs = list(zip(*nodes, strict=True) if selected else itertools.product(*nodes))
        layers.append(part.layer)
        total += len(pairs)
        strongest += measure(described, part, pairs, most=most)

    def rank(edge: Strength) -> tuple[float, int, int, int]:
        strength = math.inf if math.isnan(edge.mean_abs) else edge.mean_abs
        return -strength, edge.layer, edge.source, edge.destination

    strongest.sort(key=rank)
    return Survey(tuple(layers), total, tuple(strongest[:most]))


def measure(described: Description, part: LayerValues, pairs: list[tuple[int, int]], *, most: int) -> list[Strength]:
    """The strongest edges of one layer, over rows and positions. `pairs` are the (source, destination) of its columns.
    An edge with NaN counts as the strongest, because it needs attention."""
    if not part.values.size:
        return []
    layer = described.layers[part.layer]
    symbolic = {(edge.source, edge.destination): edge.function for edge in layer.symbolic}
    values = part.values.reshape(-1, len(pairs))
    mean_abs = np.abs(values).mean(axis=0, dtype=np.float64)
    minimum, maximum = values.min(axis=0), values.max(axis=0)
    total = float(np.nansum(mean_abs)) or 1.0
    order = np.argsort(-np.where(np.isnan(mean_abs), np.inf, mean_abs), kind="stable")
    return [
        Strength(
            layer=part.layer,
            layer_name=layer.name,
            source=pairs[at][0],
            destination=pairs[at][1],
            mean_abs=float(mean_abs[at]),
            share=float(mean_abs[at]) / total,
            minimum=float(minimum[at]),
            maximum=float(maximum[at]),
            symbolic=symbolic.get(pairs[at], ""),
            histogram=_histogram(values[:, at]),
        )
        for at in order[:most].tolist()
    ]


def _histogram(values: Any) -> tuple[int, ...]:
    """Counts of the finite values. Equal values are in the middle bin."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return (0,) * BINS
    low, high = finite.min(), finite.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(finite, bins=BINS, range=(low, high))
    return tuple(counts.tolist())


EMPTY = "·"
LEGEND = (
    "share: part of the summed mean |φ| of the queried edges in the layer",
    f"distribution: number of values φ in each of {BINS} equal bins from min to max, {EMPTY} for 0; "
    "it is not a plot of φ over its input",
)


def document(described: Description, layers: Sequence[int], row_count: int) -> dict[str, Any]:
    """Edge query as JSON: the model, the rows, the layers by index."""
    return {
        **descriptions.identity(described),
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


def table(described: Description, survey: Survey, row_count: int) -> Table:
    """Table of the strongest edges, one per line."""
    positions = [(at, described.layers[at].positions) for at in survey.layers]
    spread = [f"layer {at} has {' x '.join(map(str, extents))}" for at, extents in positions if extents]
    mixed = [str(at) for at in survey.layers if described.layers[at].edge_class == "B"]
    strongest_first = Table(
        f"{described.name} version {described.version}: {described.family}, {arrows(described.shapes)}; "
        f"{row_count} rows",
        ("edge", "mean |φ|", "share", "min", "distribution of values", "max", "symbolic"),
        numbers=("mean |φ|", "share", "min"),
        caption=(
            f"{len(survey.strongest)} of {survey.total} edges, by mean |φ|",
            *LEGEND,
            *([f"positions: {', '.join(spread)}; the numbers cover rows and positions"] if spread else ()),
            *([f"class B (a value depends on all sources of its row): layer {', '.join(mixed)}"] if mixed else ()),
            *descriptions.scaled_edges(described, {edge.layer for edge in survey.strongest}),
        ),
    )
    for edge in survey.strongest:
        strongest_first.add(
            descriptions.edge_name(described, edge.layer, edge.source, edge.destination),
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
