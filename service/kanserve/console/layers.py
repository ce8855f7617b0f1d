"""A model layer by layer, in words: what its edges are made of and what stands around them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from kanexport.manifest import BasisInfo, LayerInfo, NodeStep
from kanexport.shared.naming import Names
from kanexport.shared.output import say
from kanexport.shared.tables import Cell, Table

SERVERS = ("node_tensor", "edges_file", "edges_tensor")  # inside the repository; not on the wire
SHOWN = 6  # entries of a list; the rest is counted
CLASSES = "class A: an edge depends on its source alone; B: on all sources of its row"
NOTHING = "-"


def document(layers: Sequence[LayerInfo]) -> list[dict[str, Any]]:
    """The layers for JSON, with everything that is known of them."""
    kept = [{key: value for key, value in asdict(layer).items() if key not in SERVERS} for layer in layers]
    return [{"index": at, **layer} for at, layer in enumerate(kept)]


def show_names(names: Names) -> None:
    """What the model is and what its numbers are called, for people; nothing where nobody said."""
    if names.description:
        say(names.description)
    units = itertools.chain(names.units, itertools.repeat(""))
    features = [f"{name} [{unit}]" if unit else name for name, unit in zip(names.features, units, strict=False)]
    for what, named in (("features", features), ("classes", list(names.classes))):
        if named:
            say(f"{what}: {_listed(named)}")


def show(layers: Sequence[LayerInfo], notes: Sequence[str], edge_class: str) -> None:
    """Print a table for people, and the notes; `edge_class` is the model's."""
    positions = any(layer.positions for layer in layers)
    columns = _columns(edge_class, names=any(layer.name for layer in layers), positions=positions)
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


def _columns(edge_class: str, *, names: bool, positions: bool) -> dict[str, Callable[[LayerInfo], Cell]]:
    """What each column says of a layer; names and positions only where a layer has any."""
    optional: dict[str, Callable[[LayerInfo], Cell]] = {}
    if names:
        optional["name"] = lambda layer: layer.name
    if positions:
        optional["positions"] = lambda layer: " x ".join(map(str, layer.positions)) or NOTHING
    return {
        **optional,
        "nodes": lambda layer: f"{layer.sources} → {layer.destinations}",
        "class": lambda layer: layer.edge_class or edge_class,
        "active edges": lambda layer: f"{layer.active_edges} of {layer.sources * layer.destinations}",
        "before the edges": lambda layer: steps(layer.before) or NOTHING,
        "functions of an edge": lambda layer: functions(layer) or NOTHING,
        "after the sums": lambda layer: sums(layer) or NOTHING,
    }


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
        text += ", shifted and stretched by each edge"
    return f"{text} of {steps(info.before)}" if info.before else text


def sums(layer: LayerInfo) -> str:
    """What happens to the sums of the edges: the bias, then the steps."""
    bias = ["bias"] if any(layer.bias) else []
    return ", then ".join([*bias, *map(step, layer.after)])


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
        case "layernorm":
            return f"layernorm{_with(_affine(info))}"
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


def _with(text: str) -> str:
    return f" with {text}" if text else ""


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
