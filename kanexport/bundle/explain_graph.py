"""Portable explanations: the graph `explain.onnx` with edges and contributions of the chosen layers, and its
metadata."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.bundle.description import BATCH, Signature
from kanexport.errors import OptionError
from kanexport.graph import compose, precision
from kanexport.graph.compose import AppendedGraph
from kanexport.ir.model import Kan
from kanexport.lowering.attribution import Anchor, contributions_graph
from kanexport.lowering.lower import Explained, Lowered
from kanexport.shared import sections
from kanexport.shared.cli.suggest import advice
from kanexport.shared.manifest import LayerInfo
from kanexport.shared.naming import Names
from kanexport.verify import attribution
from kanexport.verify.attribution import NoContributions

EDGE_LIMIT = 65_536  # edges per row of a layer, at all positions, included by default: 256 KiB per row in float32
OF_MODULE = "the model is a PyTorch module; only its last layers can have contributions"
FACTS = "kanexport"  # the key of the file's metadata


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """Options of the explaining graph.

    enabled  whether the bundle has one
    layers   layers with edges in it, by number or name; empty for all that have no more than `EDGE_LIMIT` edges
    """

    enabled: bool = False
    layers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, explain: bool | Sequence[str | int]) -> ExplainOptions:
        """True for all layers within the limit, or their numbers and names."""
        return cls(bool(explain), () if isinstance(explain, bool) else tuple(map(str, explain)))


NO_EXPLANATION = ExplainOptions()


def add(
    options: ExplainOptions,
    lowered: Lowered,
    layers: Sequence[LayerInfo],
    signature: Signature,
    names: Names,
    against: Anchor | str = "",
) -> Lowered:
    """The graphs with the explaining one, if it is requested; with contributions, if `against` is an anchor and not
    the reason why there are none. Raises OptionError for an unknown layer, InvalidKan if the graphs do not fit into
    one."""
    if not options.enabled:
        return lowered
    chosen, notes = _chosen(options, layers)
    against = _within_reason(against, chosen, layers)
    if isinstance(against, str):
        anchor, needed = None, chosen
        notes += (
            (f"{sections.EXPLAIN_FILE} has no contributions: {against}; `kanserve explain` may have them",)
            if against
            else ()
        )
    else:
        anchor, needed = against, list(range(len(layers)))
    tensors = _tensors(layers, chosen, lowered.model, signature)
    parts = [
        AppendedGraph(
            lowered.edges[at], layers[at].edges_tensor, edges_name(at), layers[at].positions, shown=at in chosen
        )
        for at in needed
    ]
    if anchor is not None:
        graph = contributions_graph(anchor, [edges_name(at) for at in needed], signature.dtype)
        parts.append(AppendedGraph(graph, sections.CONTRIBUTIONS, sections.CONTRIBUTIONS))
        shape, datatype = (BATCH, len(anchor.row), len(anchor.base)), precision.DATATYPES[signature.dtype]
        tensors.append(
            sections.ExplainedTensor(
                name=sections.CONTRIBUTIONS, datatype=datatype, shape=shape, holds=sections.CONTRIBUTIONS, layer=-1
            )
        )
    about = sections.Explanations(
        file=sections.EXPLAIN_FILE, tensors=tuple(tensors), base=() if anchor is None else tuple(anchor.base.tolist())
    )
    graph = compose.joined(lowered.model, parts, {FACTS: _facts(about, layers, names, anchor)})
    return dataclasses.replace(lowered, explained=Explained(graph, about, notes, anchor))


def attribution_baseline(options: ExplainOptions, kan: Kan, mean: Sequence[float]) -> Anchor | str:
    """The anchor of the contributions of a network: the `mean` of the rows of the user. A text instead is the reason
    why there is none; it is empty if the user did not request contributions."""
    if not options.enabled or not mean:
        return ""
    try:
        return attribution.anchor(kan, np.array(mean))
    except NoContributions as error:
        return str(error)


def _within_reason(against: Anchor | str, chosen: Sequence[int], layers: Sequence[LayerInfo]) -> Anchor | str:
    """The anchor, or a reason: contributions need the edges of all layers."""
    large = [at for at in range(len(layers)) if at not in chosen and _edges(layers[at]) > EDGE_LIMIT]
    return f"layer {large[0]} has {_edges(layers[large[0]])} edges per row" if large and against else against


def edges_name(layer: int) -> str:
    """The name of the edges of a layer in the explaining graph."""
    return f"layer{layer}_edges"


def _chosen(options: ExplainOptions, layers: Sequence[LayerInfo]) -> tuple[list[int], tuple[str, ...]]:
    """The numbers of the layers, ascending, and notes on those that are left out."""
    if options.layers:
        return sorted({_numbered(text, layers) for text in options.layers}), ()
    large = {at: count for at, layer in enumerate(layers) if (count := _edges(layer)) > EDGE_LIMIT}
    notes = (
        f"{sections.EXPLAIN_FILE} has no edges of layer {at}: {count} per row are more than {EDGE_LIMIT}; "
        "select it with --explain-layers"
        for at, count in large.items()
    )
    return [at for at in range(len(layers)) if at not in large], tuple(notes)


def _edges(layer: LayerInfo) -> int:
    return layer.sources * layer.destinations * math.prod(layer.positions)


def _numbered(text: str, layers: Sequence[LayerInfo]) -> int:
    """The number of a layer, from its number or name. Raises OptionError."""
    names = [layer.name for layer in layers]
    if text.isdecimal() and int(text) < len(layers):
        return int(text)
    if text in names:
        return names.index(text)
    known = [*map(str, range(len(layers))), *filter(None, names)]
    raise OptionError(
        f"--explain-layers: unknown layer {text[:80]!r}, the model has {len(layers)} layers",
        code="layer-unknown",
        hint=advice(text, known, what="layers"),
    )


def _tensors(
    layers: Sequence[LayerInfo], chosen: Sequence[int], model: bytes, signature: Signature
) -> list[sections.ExplainedTensor]:
    """The outputs of the graph, in order: those of the model, and the edges."""
    datatype = precision.DATATYPES[signature.dtype]
    layer_of = {layer.node_tensor: at for at, layer in enumerate(layers)}
    tensors = [
        sections.ExplainedTensor(
            name=output.name, datatype=output.datatype, shape=output.shape, holds=sections.OUTPUT, layer=-1
        )
        for output in signature.outputs()
    ]
    own = {tensor.name for tensor in tensors}
    tensors += [
        sections.ExplainedTensor(
            name=name, datatype=datatype, shape=(BATCH, *shape), holds=sections.NODES, layer=layer_of[name]
        )
        for name, shape in compose.outputs(model).items()
        if name not in own
    ]
    for at in chosen:
        shape = (BATCH, *layers[at].positions, layers[at].sources, layers[at].destinations)
        tensors.append(
            sections.ExplainedTensor(
                name=edges_name(at), datatype=datatype, shape=shape, holds=sections.EDGES, layer=at
            )
        )
    return tensors


def _facts(about: sections.Explanations, layers: Sequence[LayerInfo], names: Names, anchor: Anchor | None) -> str:
    """The metadata of the file as JSON: its outputs, the names of the inputs and outputs, the biases of its layers,
    which with the edges add up to nodes, and the reference and its output, which with the contributions add up to
    the prediction."""
    tensors = [dataclasses.asdict(tensor) for tensor in about.tensors]
    document: dict[str, Any] = {
        "outputs": tensors,
        "bias": [layer.bias for layer in layers],
        "names": dataclasses.asdict(names),
    }
    if anchor is not None:
        document |= {"reference": anchor.row.tolist(), "base": about.base}
    return json.dumps(document, allow_nan=False)
