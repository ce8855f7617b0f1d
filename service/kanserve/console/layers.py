"""A model layer by layer, in words: what its edges are made of and what stands around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kanexport.manifest import BasisInfo, LayerInfo, NodeStep
from kanserve.console import tables

SERVERS = ("node_tensor", "edges_file", "edges_tensor")  # inside the repository; not on the wire
SHOWN = 6  # entries of a list; the rest is counted


def document(layers: Sequence[LayerInfo]) -> list[dict[str, Any]]:
    """The layers for JSON, with everything that is known of them."""
    kept = [{key: value for key, value in asdict(layer).items() if key not in SERVERS} for layer in layers]
    return [{"index": at, **layer} for at, layer in enumerate(kept)]


def show(layers: Sequence[LayerInfo], notes: Sequence[str], edge_class: str) -> None:
    """A table for people; `edge_class` is the model's."""
    named = any(layer.name for layer in layers)
    spread = any(layer.positions for layer in layers)
    columns = [
        "layer",
        *(["name"] if named else []),
        *(["positions"] if spread else []),
        "nodes",
        "class",
        "active edges",
        "before the edges",
        "functions of an edge",
        "after the sums",
    ]
    legend = "class A: an edge depends on its source alone; B: on all sources of its row" + (
        " and position" if spread else ""
    )
    table = tables.make("layers", tuple(columns), numbers=("layer", "active edges"), caption=legend)
    for at, layer in enumerate(layers):
        tables.add(
            table,
            str(at),
            *([layer.name] if named else []),
            *([" x ".join(map(str, layer.positions)) or "-"] if spread else []),
            f"{layer.sources} → {layer.destinations}",
            layer.edge_class or edge_class,
            f"{layer.active_edges} of {layer.sources * layer.destinations}",
            steps(layer.before) or "-",
            functions(layer) or "-",
            sums(layer) or "-",
        )
    tables.show(table)
    for note in notes:
        print(f"note: {tables.printable(note)}")


def functions(layer: LayerInfo) -> str:
    """The bases of a layer and its symbolic functions, one line each."""
    lines = [basis(info) for info in layer.bases]
    if layer.symbolic:
        counts = Counter(edge.function for edge in layer.symbolic)
        names = [f"{name} x {count}" if count > 1 else name for name, count in counts.most_common()]
        lines.append(f"symbolic: {_some(names)}")
    return "\n".join(lines)


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
    return ", then ".join([*bias, *(step(found) for found in layer.after)])


def steps(found: Sequence[NodeStep]) -> str:
    """Steps in order."""
    return ", then ".join(step(one) for one in found)


def step(found: NodeStep) -> str:
    """One step, such as "layernorm with scale and bias" or "prelu 0.25"."""
    match found.kind:
        case "select":
            return f"columns {_some(list(map(str, found.indices)))}"
        case "product":
            return f"products of {_some(list(map(str, found.indices)))} values"
        case "affine":
            return _affine(found) or "affine"
        case "layernorm":
            return f"layernorm{_with(_affine(found))}"
        case "prelu" if len(found.scale) == 1:
            return f"prelu {found.scale[0]:.4g}"
        case "prelu":
            return f"prelu of {len(found.scale)} slopes"
        case "function":
            return found.function
        case _:
            return found.kind


def _affine(found: NodeStep) -> str:
    parts = ["scale"] if any(value != 1 for value in found.scale) else []
    parts += ["bias"] if any(found.bias) else []
    return " and ".join(parts)


def _with(text: str) -> str:
    return f" with {text}" if text else ""


def _some(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
