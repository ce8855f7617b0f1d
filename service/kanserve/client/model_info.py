"""Description of a served KAN: the response of DescribeModel in the terms of the manifest.

This module is the inverse of `grpc_api/model_codec.py`, which a client installation cannot import.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kanexport.shared.manifest import BasisInfo, LayerInfo, NodeStep, SourceFile, SymbolicEdge, Zone
from kanexport.shared.naming import Names
from kanexport.shared.sections import (
    AS_TRAINED,
    DIRECTIONS,
    NO_CERTIFICATE,
    NO_EDIT,
    NO_ERROR_BARS,
    NO_INTERVALS,
    UNDECIDED,
    CertificateInfo,
    Edit,
    EditedEdge,
    ErrorBars,
    Intervals,
    OutputInterval,
    Scaler,
    Scalers,
    Witness,
)
from kanserve.pb import kan_pb2 as kan
from kanserve.types import Description, TensorInfo


def from_pb(answer: kan.DescribeModelResponse) -> Description:
    """The response of DescribeModel as plain values."""
    return Description(
        name=answer.model_name,
        version=answer.model_version,
        digest=answer.digest,
        family=answer.family,
        edge_class=answer.edge_class,
        # Older servers name only the first ones.
        inputs=_tensors(answer.inputs or [answer.input]),
        outputs=_tensors(answer.outputs or [answer.output]),
        layers=tuple(_layer(layer, answer.edge_class) for layer in answer.layers),
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
        intervals=_intervals(answer.intervals) if answer.HasField("intervals") else NO_INTERVALS,
        scalers=Scalers(inputs=_scaler(answer.input_scaler), outputs=_scaler(answer.output_scaler)),
        certificate=_certificate(answer.certificate) if answer.HasField("certificate") else NO_CERTIFICATE,
        error_bars=_error_bars(answer.error_bars) if answer.HasField("error_bars") else NO_ERROR_BARS,
        edit=edit_from_pb(answer.edit) if answer.HasField("edit") else NO_EDIT,
    )


def edit_from_pb(message: kan.Edit) -> Edit:
    """The edit of a version as plain values."""
    return Edit(
        parent_version=int(message.parent_version),
        parent_sha256=message.parent_sha256,
        author=message.author,
        released=message.released,
        edges=tuple(
            EditedEdge(
                layer=edge.layer,
                source=edge.source,
                destination=edge.destination,
                operation=edge.operation,
                form=edge.form,
                error=edge.error,
            )
            for edge in message.edges
        ),
        rows=message.rows,
        rows_from=message.rows_from,
        largest=tuple(message.largest),
        mean=tuple(message.mean),
        changed=message.changed,
    )


def certificates(answer: kan.GetCertificatesResponse) -> tuple[CertificateInfo, ...]:
    """The response of GetCertificates as plain values."""
    return tuple(map(_certificate, answer.certificates))


CERTIFIED = {  # fields of a certificate by output -> those of the message
    "output_low": "low",
    "output_high": "high",
    "found_low": "found_low",
    "found_high": "found_high",
    "slack": "float32_slack",
}


def _certificate(message: kan.Certificate) -> CertificateInfo:
    outputs = len(message.outputs)
    rows = [message.effects[at : at + outputs] for at in range(0, len(message.effects), max(1, outputs))]
    return CertificateInfo(
        method=message.method,
        box=message.box,
        sha256=message.sha256,
        low=tuple(message.low),
        high=tuple(message.high),
        budget=message.budget,
        seconds=message.seconds,
        boxes=message.boxes,
        **{key: tuple(getattr(output, name) for output in message.outputs) for key, name in CERTIFIED.items()},
        directions=tuple(tuple(_direction(effect.direction) for effect in row) for row in rows),
        lipschitz=tuple(tuple(effect.lipschitz for effect in row) for row in rows),
        assumptions=tuple(message.assumptions),
        range_check=message.range_check,
        at_low=_rows(message.outputs, "at_low"),
        at_high=_rows(message.outputs, "at_high"),
        witnesses=tuple(_witnesses(message.effects)),
    )


def _witnesses(effects: Iterable[kan.Certificate.Effect]) -> Iterator[Witness]:
    """The evidence of the effects that have one."""
    for own in effects:
        if own.HasField("rises") and own.HasField("falls"):
            yield Witness(input=own.input, output=own.output, rises=_step(own.rises), falls=_step(own.falls))


def _rows(outputs: Iterable[kan.Certificate.Output], name: str) -> tuple[tuple[float, ...], ...]:
    """A row of each output, or none if the certificate has none."""
    rows = tuple(tuple(getattr(output, name)) for output in outputs)
    return rows if all(rows) else ()


def _step(message: kan.Certificate.Step) -> tuple[float, ...]:
    return (*message.row, message.to)


def _direction(word: str) -> int:
    """The position of a direction. A later server can have other words, which this client does not know."""
    return DIRECTIONS.index(word if word in DIRECTIONS else UNDECIDED)


def _intervals(message: kan.Intervals) -> Intervals:
    return Intervals(
        method=message.method,
        coverage=message.coverage,
        name=message.name,
        sha256=message.sha256,
        rows=message.rows,
        fitted=message.fitted,
        outputs=tuple(map(_output_interval, message.outputs)),
        scores=message.scores,
        threshold=message.threshold,
        size=message.size,
        checked=message.checked,
    )


def _error_bars(message: kan.ErrorBars) -> ErrorBars:
    """The facts of error bars, without the stored rows, which the server does not send."""
    return ErrorBars(
        factor=message.factor,
        name=message.name,
        sha256=message.sha256,
        rows=message.rows,
        outside=message.rows_outside,
        checked=message.checked,
        missed=message.missed,
        needed=message.needed,
        median=tuple(message.median),
    )


def _output_interval(message: kan.Intervals.Output) -> OutputInterval:
    return OutputInterval(
        quantile=message.quantile,
        points=tuple(message.points),
        spreads=tuple(message.spreads),
        width=message.width,
    )


def _scaler(scaler: kan.Scaler) -> Scaler:
    return Scaler(
        kind=scaler.kind,
        offset=_vector(scaler.offset),
        scale=_vector(scaler.scale),
        range=tuple(scaler.range),
        name=scaler.name,
        sha256=scaler.sha256,
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
    # Row by row: with a million numbers in one step, no other thread would run for 0.1 s.
    return tuple(tuple(row.tolist()) for row in np.frombuffer(packed, dtype).reshape(rows, -1))


def in_words(config: Any) -> str:
    """Serving options of a ModelConfig as text; empty for a server that does not state them."""
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
    """The list in a parameter; empty without one. A lookup of a missing key would add it to the map."""
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
        *(["responses in order"] if batching.preserve_ordering else []),
    ]


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
