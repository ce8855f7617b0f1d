"""Description of a served KAN: the response of DescribeModel in the terms of the manifest.

This module is the inverse of `grpc_api/model_codec.py`, which a client installation cannot import.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kanexport.contract import manifest
from kanexport.contract.manifest import BasisInfo, LayerInfo, NodeStep, SourceFile, SymbolicEdge, Zone
from kanexport.contract.naming import UNNAMED, Names
from kanexport.contract.sections import AS_TRAINED
from kanserve.pb import kan_pb2 as kan
from kanserve.types import TensorInfo


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a served KAN.

    `verified_error`       the largest relative output error over the finite test regions
    `verification_basis`   a key of `manifest.VERIFICATION_BASES`
    `claim`                the verification basis in words
    `options_assumed`      by name, the export options that the exporter assumed
    `options_given`        by name, the export options that the user gave
    `names`                the names of features, units and classes
    `zones`                the largest errors of each group of verification rows
    `files`                the source files of the export
    """

    name: str
    version: str
    digest: str
    family: str
    edge_class: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    verified_error: float
    max_batch_size: int
    max_rows: int  # of one edge query
    max_response_bytes: int
    notes: tuple[str, ...]
    verification_basis: str
    claim: str
    options_assumed: Mapping[str, str]
    names: Names = UNNAMED
    out_of_range_policy: str = AS_TRAINED  # a key of `contract.sections.OUT_OF_RANGE_POLICIES`
    zones: tuple[Zone, ...] = ()
    tolerances: tuple[float, float] = (math.nan, math.nan)  # of outputs and of edges
    files: tuple[SourceFile, ...] = ()
    exporter: str = ""  # its version
    options_given: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of a row from layer to layer, as `manifest.row_shapes` returns them."""
        inputs, result = ([tensor.shape for tensor in tensors] for tensors in (self.inputs, self.outputs))
        return manifest.row_shapes(inputs, self.layers, result)

    @property
    def input(self) -> TensorInfo:
        """The first input, of most models the only one."""
        return self.inputs[0]

    @property
    def output(self) -> TensorInfo:
        """The first output, of most models the only one."""
        return self.outputs[0]

    def source(self, layer: int, at: int) -> str:
        """The name of a source of a layer: its feature (x0, x1 ... without names), or its number."""
        if layer or self.family == manifest.HYBRID:
            return str(at)
        columns = next((step.indices for step in self.layers[0].pre_steps if step.kind == "select"), ())
        return self.names.feature(columns[at] if columns else at)

    def destination(self, layer: int, at: int) -> str:
        """The name of a destination of a layer: its class (y0, y1 ... without names), or its number."""
        last = self.layers[layer]
        moved = any(step.kind in ("select", "product") for step in last.post_steps)
        if layer < len(self.layers) - 1 or moved or self.family == manifest.HYBRID:
            return str(at)
        return self.names.output(at)


def from_pb(answer: kan.DescribeModelResponse) -> Description:
    """The answer of DescribeModel as plain values."""
    finite = [zone for zone in answer.verification.zones if zone.name != "nonfinite"]
    return Description(
        name=answer.model_name,
        version=answer.model_version,
        digest=answer.digest,
        family=answer.family,
        edge_class=answer.edge_class,
        # Older servers name the first ones alone.
        inputs=_tensors(answer.inputs or [answer.input]),
        outputs=_tensors(answer.outputs or [answer.output]),
        layers=tuple(_layer(layer, answer.edge_class) for layer in answer.layers),
        verified_error=max((zone.outputs_max_rel for zone in finite), default=math.nan),
        max_batch_size=answer.max_batch_size,
        max_rows=answer.limits.max_rows,
        max_response_bytes=answer.limits.max_response_bytes,
        notes=tuple(answer.notes),
        verification_basis=answer.verification.basis,
        claim=answer.verification.claim,
        options_assumed=dict(answer.source.options_assumed),
        names=Names(tuple(answer.features), tuple(answer.units), tuple(answer.classes), answer.description),
        out_of_range_policy=answer.out_of_range_policy or AS_TRAINED,
        zones=tuple(map(_zone, answer.verification.zones)),
        tolerances=(answer.verification.outputs_tolerance, answer.verification.edges_tolerance),
        files=tuple(SourceFile(name=file.name, sha256=file.sha256) for file in answer.source.files),
        exporter=answer.source.exporter_version,
        options_given=dict(answer.source.options_given),
    )


def _zone(zone: kan.Verification.Zone) -> Zone:
    return Zone(
        name=zone.name,
        rows=zone.rows,
        outputs_max_abs=zone.outputs_max_abs,
        outputs_max_rel=zone.outputs_max_rel,
        edges_max_abs=zone.edges_max_abs,
        edges_max_rel=zone.edges_max_rel,
        worst_edge=zone.worst_edge,
        worst_output=zone.worst_output,
    )


def _tensors(tensors: Sequence[kan.TensorInfo]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)


def _layer(layer: kan.Layer, edge_class: str) -> LayerInfo:
    return LayerInfo(
        sources=layer.sources,
        destinations=layer.destinations,
        bases=tuple(_basis(basis) for basis in layer.bases),
        pre_steps=_steps(layer.pre_steps),
        post_steps=_steps(layer.post_steps),
        mask=_table(layer.mask, "<f4", layer.sources),
        bias=_vector(layer.bias),
        symbolic=tuple(_symbolic(edge) for edge in layer.symbolic),
        active_edges=layer.active_edges,
        node_tensor="",
        edges_file="",
        edges_tensor="",
        name=layer.name,
        edge_class=layer.edge_class or edge_class,
        positions=tuple(layer.positions),
    )


def _basis(basis: kan.Basis) -> BasisInfo:
    return BasisInfo(
        kind=basis.kind,
        functions=basis.functions,
        parameters=dict(basis.parameters),
        knots=_table(basis.knots, "<f8", basis.knot_rows),
        per_edge=basis.per_edge,
        pre_steps=_steps(basis.pre_steps),
    )


def _symbolic(edge: kan.SymbolicEdge) -> SymbolicEdge:
    return SymbolicEdge(
        source=edge.source,
        destination=edge.destination,
        function=edge.function,
        a=edge.a,
        b=edge.b,
        c=edge.c,
        d=edge.d,
        mask=edge.mask,
        expression=edge.expression,
    )


def _steps(steps: Sequence[kan.NodeStep]) -> tuple[NodeStep, ...]:
    return tuple(
        NodeStep(
            kind=step.kind,
            indices=tuple(step.indices),
            scale=_vector(step.scale),
            bias=_vector(step.bias),
            epsilon=step.epsilon,
            function=step.function,
        )
        for step in steps
    )


def _vector(packed: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(packed, "<f8").tolist())


def _table(packed: bytes, dtype: str, rows: int) -> tuple[tuple[float, ...], ...]:
    if not packed:
        return ()
    # Row by row, because the server uses this for reports: a million numbers at once would block other calls for 0.1 s.
    return tuple(tuple(row.tolist()) for row in np.frombuffer(packed, dtype).reshape(rows, -1))


def in_words(config: Any) -> str:
    """Serving options of a ModelConfig in words; empty for a server that does not state them."""
    parts = []
    instances = sum(group.count for group in config.instance_group)
    if instances:
        threads = config.parameters["intra_op_thread_count"].string_value if config.parameters else ""
        parts.append(f"{instances} {_plural('instance', instances)}" + (f" of {threads} thread(s)" if threads else ""))
    if config.HasField("dynamic_batching"):
        parts += _batching(config.dynamic_batching, config.max_batch_size)
    return ", ".join(parts)


def names_of(parameters: Mapping[str, Any]) -> Names:
    """Names of features, units and classes in the parameters of a ModelConfig; no names if the server states none."""
    features, units, classes = (_list(parameters, f"kan.{what}") for what in ("features", "units", "classes"))
    has_description = "kan.description" in parameters
    return Names(features, units, classes, parameters["kan.description"].string_value if has_description else "")


def _list(parameters: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Asking a map of messages for what it has not would put it there."""
    try:
        values = json.loads(parameters[key].string_value) if key in parameters else []
    except ValueError:
        return ()
    return tuple(map(str, values)) if isinstance(values, list) else ()


def _batching(batching: Any, most: int) -> list[str]:
    preferred = f", preferably {', '.join(map(str, batching.preferred_batch_size))}"
    delay = batching.max_queue_delay_microseconds
    return [
        f"batches of up to {most} rows" + (preferred if batching.preferred_batch_size else ""),
        f"waiting up to {delay} us for others" if delay else "waiting for no others",
        *([f"{batching.priority_levels} priority levels"] if batching.priority_levels else []),
        *(["answers in order"] if batching.preserve_ordering else []),
    ]


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
