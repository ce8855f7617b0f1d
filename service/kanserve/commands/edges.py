"""`kanserve edges NAME --input read_rows.npy`: what every edge of the network did with rows."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kanexport.manifest import arrows
from kanserve.client import bulk
from kanserve.client.connection import LayerValues
from kanserve.client.description import Description
from kanserve.console import read_rows, remote, results, tables
from kanserve.console.common import add_client_options, index, note, print_json

BARS = "▁▂▃▄▅▆▇█"
BINS = 16
INDEX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Strength:
    """One edge over all rows and positions: mean and extremes of phi, and a histogram of its values.

    `share` is its part of the summed mean magnitudes of the edges that were asked for in its layer.
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


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("name", metavar="NAME", help="a model of the server")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="rows as .npy, .npz, .csv or .json; - reads stdin"
    )
    parser.add_argument("--array", default="", metavar="NAME", help="which array of an .npz")
    several: dict[str, Any] = {"type": index, "action": "append", "default": [], "metavar": "N"}
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="LAYER",
        help="only this layer, by its name or its index (may be repeated; default: all)",
    )
    parser.add_argument("--source", help="only edges from this node (may be repeated)", **several)
    parser.add_argument("--destination", help="only edges to this node (may be repeated)", **several)
    parser.add_argument(
        "--top-k", type=index, default=0, metavar="K", help="per layer, the K edges of largest magnitude"
    )
    parser.add_argument(
        "--output",
        metavar="FILE.npz",
        help="write layer{l}_edges, float32 (rows, *positions, source, destination); with --top-k "
        "(rows, *positions, k); with a selection also layer{l}_sources and layer{l}_destinations. "
        "Without it: a table of the strongest",
    )
    parser.add_argument("--show", type=index, default=20, metavar="N", help="edges in the table (20)")
    parser.add_argument("--model-version", default="", metavar="N", help="default: the highest that is ready")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or raises CommandError."""
    results.check(args.output, (".npz",))
    raw = read_rows.fetch(args.input)
    with remote.connection(args) as client:
        described = client.describe(args.name, args.model_version)
        values = read_rows.parse(raw, described.input, array=args.array)
        with remote.progress("edges") as report:
            found = bulk.edges(
                client,
                described,
                values,
                layers=tuple(dict.fromkeys(_layer(described, text) for text in args.layer)),
                sources=_unique(args.source),
                destinations=_unique(args.destination),
                top_k=args.top_k,
                progress=report,
            )
            if args.output:
                return _write(args, described, list(found))
            total = 0
            asked = []
            strongest = []
            for part in found:
                asked.append(part.layer)
                pairs = _pairs(described, part)
                total += len(pairs)
                strongest += measure(described, part, pairs, most=args.show)
    strongest.sort(key=lambda edge: (-_rank(edge.mean_abs), edge.layer, edge.source, edge.destination))
    shown = strongest[: args.show]
    if args.json:
        print_json({**_facts(described, asked, len(values)), "edges": [asdict(edge) for edge in shown]})
    else:
        _print_table(described, asked, shown, total=total, row_count=len(values))
    return 0


def _layer(described: Description, text: str) -> int | str:
    """What --layer means: a name, if a layer has it (the children of a torch Sequential are
    named by numbers), else an index."""
    named = any(layer.name == text for layer in described.layers)
    return int(text) if text.isdecimal() and len(text) <= INDEX_DIGITS and not named else text


def _pairs(described: Description, found: LayerValues) -> list[tuple[int, int]]:
    """Source and destination along the last axis of values, or along the last two."""
    positions = described.layers[found.layer].positions
    if found.values.ndim == 1 + len(positions) + 1:
        return list(zip(found.sources.tolist(), found.destinations.tolist(), strict=True))
    return [(source, destination) for source in found.sources.tolist() for destination in found.destinations.tolist()]


def measure(described: Description, found: LayerValues, pairs: list[tuple[int, int]], *, most: int) -> list[Strength]:
    """The strongest edges of one answer, over rows and positions. NaN counts as the
    strongest: it is what to look at."""
    if not found.values.size:
        return []
    layer = described.layers[found.layer]
    symbolic = {(edge.source, edge.destination): edge.function for edge in layer.symbolic}
    values = found.values.reshape(-1, len(pairs))
    mean_abs = np.abs(values).mean(axis=0, dtype=np.float64)
    minimum, maximum = values.min(axis=0), values.max(axis=0)
    total = float(np.nansum(mean_abs)) or 1.0
    order = np.argsort(-np.where(np.isnan(mean_abs), np.inf, mean_abs), kind="stable")
    return [
        Strength(
            layer=found.layer,
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


def _rank(strength: float) -> float:
    return math.inf if math.isnan(strength) else strength


def _histogram(values: Any) -> tuple[int, ...]:
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return (0,) * BINS
    low, high = finite.min(), finite.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(finite, bins=BINS, range=(low, high))
    return tuple(counts.tolist())


def sparkline(counts: tuple[int, ...]) -> str:
    """Counts as bars; an empty bin is a blank."""
    top = max(counts) or 1
    return "".join(" " if not n else BARS[round(n / top * (len(BARS) - 1))] for n in counts)


def _write(args: argparse.Namespace, described: Description, found: list[LayerValues]) -> int:
    arrays: dict[str, Any] = {}
    for layer in found:
        arrays[f"layer{layer.layer}_edges"] = layer.values
        if args.source or args.destination or args.top_k:
            arrays[f"layer{layer.layer}_sources"] = layer.sources
            arrays[f"layer{layer.layer}_destinations"] = layer.destinations
    results.write(args.output, arrays)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if args.json:
        count = len(found[0].values) if found else 0
        asked = [layer.layer for layer in found]
        print_json({**_facts(described, asked, count), "output": args.output, "shapes": shapes})
    else:
        note(f"{args.output}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}")
    return 0


def _facts(described: Description, asked: list[int], row_count: int) -> dict[str, Any]:
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
            for at in asked
        ],
    }


def _print_table(
    described: Description, asked: list[int], shown: list[Strength], *, total: int, row_count: int
) -> None:
    caption = f"{len(shown)} of {total} edges, by mean |φ|; share is of the edges asked for in the layer"
    table = tables.make(
        f"{described.name} version {described.version}: {described.family}, {arrows(described.shapes)}; "
        f"{row_count} rows",
        ("edge", "mean |φ|", "share", "min", "max", "values, min to max", "symbolic"),
        numbers=("mean |φ|", "share", "min", "max"),
        caption="\n".join([caption, *_remarks(described, asked)]),
    )
    for edge in shown:
        tables.add(
            table,
            f"{edge.layer}{_named(edge.layer_name)}: {edge.source} → {edge.destination}",
            f"{edge.mean_abs:.4g}",
            f"{edge.share:.1%}",
            f"{edge.minimum:.4g}",
            f"{edge.maximum:.4g}",
            sparkline(edge.histogram),
            edge.symbolic,
        )
    tables.show(table)


def _remarks(described: Description, asked: list[int]) -> list[str]:
    """What a reader must know of the layers in the table."""
    mixed = [str(at) for at in asked if described.layers[at].edge_class == "B"]
    spread = [
        f"layer {at} runs at {' x '.join(map(str, described.layers[at].positions))}"
        for at in asked
        if described.layers[at].positions
    ]
    found = []
    if spread:
        found.append(f"positions: {', '.join(spread)}; the figures are over rows and positions")
    if mixed:
        found.append(f"class B, where a value depends on all sources of its row: layer {', '.join(mixed)}")
    return found


def _named(name: str) -> str:
    return f" ({name})" if name else ""


def _unique(values: list[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
