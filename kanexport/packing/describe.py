"""A Kan as the manifest tells it."""

from __future__ import annotations

from collections.abc import Sequence

from kanexport.form.ir import EdgeTerm, Kan, Layer, Term
from kanexport.lowering.edges import EDGES, term_tensors
from kanexport.manifest import BasisInfo, LayerInfo, SymbolicEdge


def edges_file(layer: int) -> str:
    """The file with a layer's edge graph."""
    return f"edges_l{layer}.onnx"


def layers(kan: Kan, node_tensors: tuple[str, ...]) -> tuple[LayerInfo, ...]:
    """One entry per layer; `node_tensors` names what feeds each."""
    return tuple(
        layer(one, at, name, term_tensors(one))
        for at, (one, name) in enumerate(zip(kan.layers, node_tensors, strict=True))
    )


def layer(layer: Layer, at: int, node_tensor: str, terms: Sequence[str]) -> LayerInfo:
    """One layer, the `at`-th of its model. `terms`: what its edge graph calls the part of each term."""
    return LayerInfo(
        sources=layer.sources,
        destinations=layer.destinations,
        bases=tuple(_basis(term, name) for term, name in zip(layer.terms, terms, strict=True)),
        before=tuple(step.describe() for step in layer.before),
        after=tuple(step.describe() for step in layer.after),
        mask=() if (layer.mask == 1).all() else tuple(map(tuple, layer.mask.tolist())),
        bias=tuple(layer.bias.tolist()) if layer.bias.any() else (),
        symbolic=tuple(
            SymbolicEdge(
                source=edge.source,
                destination=edge.destination,
                function=edge.function.name,
                expression=edge.function.expression,
                a=edge.a,
                b=edge.b,
                c=edge.c,
                d=edge.d,
                mask=edge.mask,
            )
            for edge in layer.symbolic
        ),
        active_edges=int(layer.active().sum()),
        node_tensor=node_tensor,
        edges_file=edges_file(at),
        edges_tensor=EDGES,
        name=layer.name,
        edge_class="B" if layer.mixes else "A",
    )


def _basis(term: Term, name: str) -> BasisInfo:
    if isinstance(term, EdgeTerm):
        before = tuple(step.describe() for step in term.before)
        return BasisInfo(
            kind=term.kind,
            functions=term.functions,
            parameters={},
            knots=(),
            before=before,
            per_edge=True,
            edges_tensor=name,
        )
    return BasisInfo(
        kind=term.kind,
        functions=term.functions,
        parameters=term.basis.parameters(),
        knots=tuple(map(tuple, term.basis.knots().tolist())),
        before=tuple(step.describe() for step in term.before),
        edges_tensor=name,
    )
