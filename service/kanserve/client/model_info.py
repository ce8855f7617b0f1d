"""Description of a served KAN: the response of DescribeModel in the terms of the manifest.

This module is the inverse of `grpc_api/model_codec.py`, which a client installation cannot import.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
from kanserve.client.encoding import from_fields
from kanserve.pb import kan_pb2 as kan
from kanserve.types import Description, TensorInfo

NAMES = ("kan.features", "kan.units", "kan.classes", "kan.description")  # parameters of a ModelConfig


def from_pb(message: kan.DescribeModelResponse) -> Description:
    """The response of DescribeModel as plain values."""
    source, verification = message.source, message.verification
    outputs = tuple(from_fields(OutputInterval, output) for output in message.intervals.outputs)
    return from_fields(
        Description,
        message,
        name=message.model_name,
        version=message.model_version,
        # Older servers name only the first ones.
        inputs=tensors(message.inputs or [message.input]),
        outputs=tensors(message.outputs or [message.output]),
        layers=tuple(
            from_fields(
                LayerInfo,
                layer,
                bases=tuple(
                    from_fields(
                        BasisInfo,
                        basis,
                        parameters=dict(basis.parameters),
                        knots=_table(basis.knots, "<f8", basis.knot_rows),
                        pre_steps=_steps(basis.pre_steps),
                    )
                    for basis in layer.bases
                ),
                pre_steps=_steps(layer.pre_steps),
                post_steps=_steps(layer.post_steps),
                mask=_table(layer.mask, "<f4", layer.sources),
                bias=_vector(layer.bias),
                symbolic=tuple(from_fields(SymbolicEdge, edge) for edge in layer.symbolic),
                node_tensor="",
                edges_file="",
                edges_tensor="",
                edge_class=layer.edge_class or message.edge_class,
            )
            for layer in message.layers
        ),
        max_rows=message.limits.max_rows,
        max_response_bytes=message.limits.max_response_bytes,
        verification_basis=verification.basis,
        claim=verification.claim,
        options_assumed=dict(source.options_assumed),
        names=Names(tuple(message.features), tuple(message.units), tuple(message.classes), message.description),
        out_of_range_policy=message.out_of_range_policy or AS_TRAINED,
        zones=tuple(from_fields(Zone, zone) for zone in verification.zones),
        tolerances=(verification.outputs_tolerance, verification.edges_tolerance),
        files=tuple(from_fields(SourceFile, file) for file in source.files),
        exporter=source.exporter_version,
        options_given=dict(source.options_given),
        intervals=from_fields(Intervals, message.intervals, outputs=outputs)
        if message.HasField("intervals")
        else NO_INTERVALS,
        scalers=Scalers(inputs=_scaler(message.input_scaler), outputs=_scaler(message.output_scaler)),
        certificate=_certificate(message.certificate) if message.HasField("certificate") else NO_CERTIFICATE,
        # The server does not send the stored rows of error bars.
        error_bars=from_fields(ErrorBars, message.error_bars, outside=message.error_bars.rows_outside)
        if message.HasField("error_bars")
        else NO_ERROR_BARS,
        edit=edit_from_pb(message.edit) if message.HasField("edit") else NO_EDIT,
    )


def edit_from_pb(message: kan.Edit) -> Edit:
    """The edit of a version as plain values."""
    edges = tuple(from_fields(EditedEdge, edge) for edge in message.edges)
    return from_fields(Edit, message, parent_version=int(message.parent_version), edges=edges)


def certificates(message: kan.GetCertificatesResponse) -> tuple[CertificateInfo, ...]:
    """The response of GetCertificates as plain values."""
    return tuple(map(_certificate, message.certificates))


CERTIFIED = {  # fields of a certificate by output -> those of the message
    "output_low": "low",
    "output_high": "high",
    "found_low": "found_low",
    "found_high": "found_high",
    "slack": "float32_slack",
}


# radon: one comprehension per field
def _certificate(message: kan.Certificate) -> CertificateInfo:
    outputs = message.outputs
    rows = [message.effects[at : at + len(outputs)] for at in range(0, len(message.effects), max(1, len(outputs)))]
    extremes = {name: tuple(tuple(getattr(output, name)) for output in outputs) for name in ("at_low", "at_high")}
    return from_fields(
        CertificateInfo,
        message,
        **{key: tuple(getattr(output, name) for output in outputs) for key, name in CERTIFIED.items()},
        # A later server can have other words, which this client does not know.
        directions=tuple(
            tuple(DIRECTIONS.index(effect.direction if effect.direction in DIRECTIONS else UNDECIDED) for effect in row)
            for row in rows
        ),
        lipschitz=tuple(tuple(effect.lipschitz for effect in row) for row in rows),
        **{name: points if all(points) else () for name, points in extremes.items()},
        witnesses=tuple(
            Witness(
                input=effect.input,
                output=effect.output,
                rises=(*effect.rises.row, effect.rises.to),
                falls=(*effect.falls.row, effect.falls.to),
            )
            for effect in message.effects
            if effect.HasField("rises") and effect.HasField("falls")
        ),
    )


def _scaler(message: kan.Scaler) -> Scaler:
    return from_fields(Scaler, message, offset=_vector(message.offset), scale=_vector(message.scale))


def tensors(messages: Iterable[Any]) -> tuple[TensorInfo, ...]:
    """Inputs or outputs as plain values."""
    return tuple(from_fields(TensorInfo, message) for message in messages)


def _steps(messages: Iterable[kan.NodeStep]) -> tuple[NodeStep, ...]:
    return tuple(from_fields(NodeStep, step, scale=_vector(step.scale), bias=_vector(step.bias)) for step in messages)


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
    if instances := sum(group.count for group in config.instance_group):
        threads = config.parameters["intra_op_thread_count"].string_value if config.parameters else ""
        parts.append(f"{instances} instance{'s' * (instances != 1)}" + (f" of {threads} thread(s)" if threads else ""))
    if config.HasField("dynamic_batching"):
        batching = config.dynamic_batching
        preferred = f", preferably {', '.join(map(str, batching.preferred_batch_size))}"
        delay = batching.max_queue_delay_microseconds
        parts += [
            f"batches of up to {config.max_batch_size} rows" + (preferred if batching.preferred_batch_size else ""),
            f"waiting up to {delay} us for others" if delay else "waiting for no others",
            *([f"{batching.priority_levels} priority levels"] if batching.priority_levels else []),
            *(["responses in order"] if batching.preserve_ordering else []),
        ]
    return ", ".join(parts)


def names_of(parameters: Mapping[str, Any]) -> Names:
    """Names of features, units and classes in the parameters of a ModelConfig; no names if the server states none."""
    # A lookup of a missing key would add it to the map.
    texts = {key: parameters[key].string_value for key in NAMES if key in parameters}
    lists: dict[str, tuple[str, ...]] = {}
    for key in NAMES[:3]:
        try:
            values = json.loads(texts.get(key, "[]"))
        except ValueError:
            values = []
        lists[key.removeprefix("kan.")] = tuple(map(str, values)) if isinstance(values, list) else ()
    return Names(**lists, description=texts.get("kan.description", ""))
