"""Manifest entries of a Kan: its layers, bases and steps, and its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kanexport.graph import precision
from kanexport.ir.model import EdgeTerm, Kan, Layer, Term
from kanexport.lowering.lower import EDGES, term_tensors
from kanexport.shared.manifest import BasisInfo, LayerInfo, SymbolicEdge, TensorSpec
from kanexport.verify.graph_runner import FLOAT, Port, Ports
from kanexport.verify.verify import network_ports


def edges_file(layer: int) -> str:
    """The file with the edge graph of a layer."""
    return f"edges_l{layer}.onnx"


def layers(kan: Kan, node_tensors: tuple[str, ...]) -> tuple[LayerInfo, ...]:
    """One entry per layer; `node_tensors` names the tensor that feeds each."""
    return tuple(
        layer(kan_layer, at, name, term_tensors(kan_layer))
        for at, (kan_layer, name) in enumerate(zip(kan.layers, node_tensors, strict=True))
    )


def layer(layer: Layer, at: int, node_tensor: str, terms: Sequence[str]) -> LayerInfo:
    """One layer, number `at` of its model. `terms`: the names of the parts of the terms in its edge graph."""
    return LayerInfo(
        sources=layer.sources,
        destinations=layer.destinations,
        bases=tuple(_basis(term, name) for term, name in zip(layer.terms, terms, strict=True)),
        pre_steps=tuple(step.describe() for step in layer.pre_steps),
        post_steps=tuple(step.describe() for step in layer.post_steps),
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
    basis = None if isinstance(term, EdgeTerm) else term.basis
    return BasisInfo(
        kind=term.kind,
        functions=term.functions,
        parameters={} if basis is None else basis.parameters(),
        knots=() if basis is None else tuple(map(tuple, basis.knots().tolist())),
        per_edge=basis is None,
        pre_steps=tuple(step.describe() for step in term.pre_steps),
        edges_tensor=name,
    )


BATCH = -1  # any number of rows, in a TensorSpec


# Types of whole numbers and truth values by numpy's names, of which the Open Inference Protocol has the capitals.
WHOLE = ("bool", "uint8", "int8", "int16", "int32", "int64")


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a graph in `dtype`, which is float32 or float64.

    Example: one input of (784,) and one output of (10,) in float32 are x FP32 [-1, 784] and
    y FP32 [-1, 10].
    """

    ports: Ports
    dtype: str

    @classmethod
    def of_network(cls, kan: Kan, dtype: str) -> Signature:
        """A stack of KAN layers: vectors in, vectors out."""
        return cls(network_ports(kan), dtype)

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the model, for the manifest."""
        return tuple(map(self._tensor, self.ports.inputs))

    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the model, for the manifest."""
        return tuple(map(self._tensor, self.ports.outputs))

    def _tensor(self, port: Port) -> TensorSpec:
        datatype = precision.DATATYPES[self.dtype] if port.kind == FLOAT else port.kind.upper()
        return TensorSpec(name=port.name, datatype=datatype, shape=(BATCH, *port.shape))
