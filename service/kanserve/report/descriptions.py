"""Descriptions of a model, its layers and its scores, in words and tables."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from kanexport.shared.cli.console import say
from kanexport.shared.cli.tables import Cell, Table
from kanexport.shared.manifest import BasisInfo, LayerInfo, NodeStep
from kanexport.shared.naming import Names
from kanexport.shared.sections import FITTED_FORM, Edit, Scalers
from kanserve.plotting.characters import bar
from kanserve.report.selection import strongest
from kanserve.types import Description, Scores

SERVERS = ("node_tensor", "edges_file", "edges_tensor")  # only in the repository, not in responses
SHOWN = 6  # entries of a list; the rest is counted
CLASSES = "class A: an edge depends only on its source; B: on all sources of its row"
NOTHING = "-"


def identity(described: Description, version: str = "") -> dict[str, str]:
    """First fields of each JSON document about a model. `version`: the one of the response, if it names one."""
    return {"model": described.name, "version": version or described.version, "digest": described.digest}


def layers_document(layers: Sequence[LayerInfo]) -> list[dict[str, Any]]:
    """The layers for JSON, with all facts."""
    return [
        {"index": at, **{key: value for key, value in asdict(layer).items() if key not in SERVERS}}
        for at, layer in enumerate(layers)
    ]


def name_lines(names: Names) -> list[tuple[str, str]]:
    """A title and one line of text for the names of the features and of the classes."""
    units = itertools.chain(names.units, itertools.repeat(""))
    features = [f"{name} [{unit}]" if unit else name for name, unit in zip(names.features, units, strict=False)]
    return [
        (what, _listed(named)) for what, named in (("features", features), ("classes", list(names.classes))) if named
    ]


def scaler_lines(scalers: Scalers, names: Names) -> list[tuple[str, str]]:
    """A title and one line of text for each scaler."""
    sides = (("input scaler", scalers.inputs, names.feature), ("output scaler", scalers.outputs, names.output))
    return [(what, scaler.text(name)) for what, scaler, name in sides if scaler]


def edit_lines(edit: Edit) -> list[tuple[str, str]]:
    """A title and a line of text for the parent version, for each edge and for the change of the outputs."""
    if not edit:
        return []
    by = f" by {edit.author}" if edit.author else ""
    lines = [("edit", f"of version {edit.parent_version}{by} (manifest {edit.parent_sha256[:12]})")]
    for edge in edit.edges:
        within = f", within {edge.error:.2g}" if edge.form == FITTED_FORM else ""
        lines.append(("edited", f"{edge.text}: {edge.form}{within}"))
    return lines + [("compared", edit.difference)] * bool(edit.difference)


def scaled_edges(described: Description, layers: Collection[int]) -> list[str]:
    """A sentence on the units of edges, if `layers` contain the last one and the model has an output scaler."""
    scaler, last = described.scalers.outputs, len(described.layers) - 1
    if not scaler or last not in layers:
        return []
    names = [f"{scale:.6g} of {described.names.output(at)}" for at, scale in enumerate(scaler.scale[:SHOWN])]
    return [f"edges of layer {last} are scaled: 1 is {', '.join(names)}{', ...' * (len(scaler.scale) > SHOWN)}"]


def place(low: float, high: float) -> Callable[[float], str]:
    """A function that formats values between two ends, with as many digits as their distance needs."""
    ratio = max(abs(low), abs(high)) / (high - low) if high > low else 1.0
    digits = 4 + max(0, math.floor(math.log10(ratio))) if math.isfinite(ratio) and ratio > 0 else 4
    return lambda value: f"{value:.{min(digits, 17)}g}"


def show(layers: Sequence[LayerInfo], notes: Sequence[str], edge_class: str) -> None:
    """Print the table of layers, and the notes. `edge_class`: the model's class."""
    positions = any(layer.positions for layer in layers)
    columns: dict[str, Callable[[LayerInfo], Cell]] = {}
    if any(layer.name for layer in layers):
        columns["name"] = lambda layer: layer.name
    if positions:
        columns["positions"] = lambda layer: " x ".join(map(str, layer.positions)) or NOTHING
    columns |= {
        "nodes": lambda layer: f"{layer.sources} → {layer.destinations}",
        "class": lambda layer: layer.edge_class or edge_class,
        "active edges": lambda layer: f"{layer.active_edges} of {layer.sources * layer.destinations}",
        "before edges": lambda layer: steps(layer.pre_steps) or NOTHING,
        "edge functions": lambda layer: functions(layer) or NOTHING,
        "after sums": lambda layer: sums(layer) or NOTHING,
    }
    table = Table(
        "layers",
        ("layer", *columns),
        numbers=("layer", "active edges"),
        caption=(f"{CLASSES} and position" if positions else CLASSES,),
    )
    for at, layer in enumerate(layers):
        table.add(str(at), *(cell(layer) for cell in columns.values()))
    table.show()
    for note in notes:
        say(f"note: {note}")


def functions(layer: LayerInfo) -> list[str]:
    """The bases of a layer and its symbolic functions, one line each."""
    lines = [basis(info) for info in layer.bases]
    if layer.symbolic:
        counts = Counter(edge.function for edge in layer.symbolic)
        names = [f"{name} x {count}" if count > 1 else name for name, count in counts.most_common()]
        lines.append(f"symbolic: {_listed(names)}")
    return lines


def basis(info: BasisInfo) -> str:
    """Such as "bspline, 8 functions (degree 3, intervals 5) of layernorm"."""
    text = info.kind if info.functions == 1 else f"{info.kind}, {info.functions} functions"
    if info.parameters:
        text += f" ({', '.join(f'{key} {value}' for key, value in sorted(info.parameters.items()))})"
    if info.per_edge:
        text += ", shifted and stretched per edge"
    return f"{text} of {steps(info.pre_steps)}" if info.pre_steps else text


def sums(layer: LayerInfo) -> str:
    """The operations on the sums of the edges: the bias, then the steps."""
    bias = ["bias"] if any(layer.bias) else []
    return ", then ".join([*bias, *map(step, layer.post_steps)])


def steps(chain: Sequence[NodeStep]) -> str:
    """Steps in order."""
    return ", then ".join(map(step, chain))


def step(info: NodeStep) -> str:
    """One step, such as "layernorm with scale and bias" or "prelu 0.25"."""
    match info.kind:
        case "select":
            return f"columns {_listed(list(map(str, info.indices)))}"
        case "product":
            return f"products of {_listed(list(map(str, info.indices)))} values"
        case "affine":
            return _affine(info) or "affine"
        case "standardize":
            return "input scaler"
        case "layernorm":
            return " with ".join(filter(None, ("layernorm", _affine(info))))
        case "prelu" if len(info.scale) == 1:
            return f"prelu {info.scale[0]:.4g}"
        case "prelu":
            return f"prelu of {len(info.scale)} slopes"
        case "function" | "clip":
            return info.function
        case _:
            return info.kind


def _affine(info: NodeStep) -> str:
    parts = ["scale"] if any(value != 1 for value in info.scale) else []
    parts += ["bias"] if any(info.bias) else []
    return " and ".join(parts)


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


OVER = {
    "rows": "the rows that you passed",
    "live": "analysed rows of the model's live traffic",
    "baseline": "the baseline rows of the export (--baseline), as it counted them",
    "reference": "synthetic verification rows of the export, not your data (pass your rows with --input)",
}


def scores_document(described: Description, scores: Scores, show: int) -> dict[str, Any]:
    """Scores for JSON: every input, and the most important edges."""
    return {
        **identity(described, scores.version),
        "source": scores.source,
        "rows": scores.row_count,
        "notes": list(scores.notes),
        "features": {described.names.feature(at): float(score) for at, score in enumerate(scores.features)},
        "edges": [
            {
                "layer": layer,
                "source": source,
                "source_name": described.source(layer, source),
                "destination": destination,
                "destination_name": described.destination(layer, destination),
                "score": score,
                "std": float(scores.layers[layer].std[source, destination]),
            }
            for layer, source, destination, score in strongest(scores, show)
        ],
    }


def features(described: Description, scores: Scores, show: int) -> Table:
    """Table of inputs, by importance."""
    values = scores.features.astype(np.float64)
    order = np.argsort(-np.where(np.isnan(values), np.inf, values), kind="stable")[:show]
    table = Table(
        f"{described.name} version {scores.version}: input importance (pykan attribution scores)",
        ("input", "score", ""),
        numbers=("score",),
        caption=(
            f"{len(order)} of {len(values)} inputs, over {scores.row_count} rows: {OVER.get(scores.source, '')}",
            *scores.notes,
        ),
    )
    largest = float(np.nanmax(values, initial=0.0))
    for at in order.tolist():
        table.add(described.names.feature(at), f"{values[at]:.4g}", bar(float(values[at]), largest))
    return table


def edge_name(described: Description, layer: int, source: int, destination: int) -> str:
    """An edge as every command spells it, with the names of its layer and nodes: "0:2:3 (alcohol → 3)"."""
    name = described.layers[layer].name
    nodes = f"{described.source(layer, source)} → {described.destination(layer, destination)}"
    return f"{layer}:{source}:{destination} ({f'{name}: ' if name else ''}{nodes})"


def edges(described: Description, scores: Scores, show: int) -> Table:
    """Table of edges, by importance."""
    rows = strongest(scores, show)
    table = Table(
        "",
        ("edge", "score", "", "std φ"),
        numbers=("score", "std φ"),
        caption=(f"{len(rows)} of {sum(layer.edges.size for layer in scores.layers)} edges",),
    )
    largest = max((score for *_, score in rows if np.isfinite(score)), default=0.0)
    for layer, source, destination, score in rows:
        std = scores.layers[layer].std[source, destination]
        table.add(edge_name(described, layer, source, destination), f"{score:.4g}", bar(score, largest), f"{std:.4g}")
    return table
