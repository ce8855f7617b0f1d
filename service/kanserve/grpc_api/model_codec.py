"""Codec of model facts: the single mapping from a manifest to protobuf messages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kanexport.shared.custom_ops import KERNEL_FILE
from kanexport.shared.error_bars import NAME as ERROR_BAR
from kanexport.shared.manifest import MODEL_FILE, BasisInfo, LayerInfo, Manifest, NodeStep
from kanexport.shared.naming import Names
from kanexport.shared.sections import CertificateInfo, Edit, ErrorBars, Intervals, Scaler
from kanexport.shared.triton import THREADS
from kanserve.analysis.intervals import NAME as INTERVAL
from kanserve.execution.config import Serving
from kanserve.models.model import Model
from kanserve.observability.statistics import Duration
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2, model_config_pb2
from kanserve.pb import model_config_pb2 as config_pb
from kanserve.repository.pbtxt import VersionPolicy
from kanserve.scheduling.queue import Policy, PriorityLevel
from kanserve.types import BYTES, ModelInfo, TensorInfo

PLATFORM = "onnxruntime_onnx"  # Triton's name, which tools read
BACKEND = "onnxruntime"
FILE_NAME = "model.onnx"
PART = 2**15  # numbers, about a millisecond
EFFECTS = 1024  # of a certificate; DescribeModel leaves out more


def metadata(info: ModelInfo, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """ModelMetadata: shapes with the batch dimension."""
    message = pb.ModelMetadataResponse(
        name=info.name, versions=[str(version) for version in versions], platform=PLATFORM
    )
    for tensor in info.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    for tensor in info.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    if info.manifest is not None:
        for key, text in _text(displayed(info.manifest)).items():
            message.parameters[key].string_param = text
    return message


def config(info: ModelInfo, serving: Serving) -> model_config_pb2.ModelConfig:
    """ModelConfig in effect: dims without the batch dimension; KAN facts among the parameters."""
    message = model_config_pb2.ModelConfig(
        name=info.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=info.max_batch_size,
        default_model_filename=FILE_NAME,
    )
    # Tools read the bool without a check that the outer message is set.
    message.model_transaction_policy.decoupled = False
    skip = 1 if info.max_batch_size else 0
    files = {labels.output: labels.file for labels in serving.labels}
    for tensor in info.inputs:
        message.input.add(name=tensor.name, data_type=_datatype(tensor), dims=tensor.shape[skip:])
    for tensor in info.outputs:
        message.output.add(
            name=tensor.name,
            data_type=_datatype(tensor),
            dims=tensor.shape[skip:],
            label_filename=files.get(tensor.name, ""),
        )
    for key, value in _facts(info).items():
        message.parameters[key].string_value = value
    add(message, serving)
    return message


def statistics(models: Iterable[Model]) -> pb.ModelStatisticsResponse:
    """ModelStatistics of some versions."""
    message = pb.ModelStatisticsResponse()
    for model in models:
        counted = model.metrics.statistics
        entry = message.model_stats.add(
            name=model.info.name,
            version=str(model.info.version),
            last_inference=counted.last_inference,
            inference_count=counted.inference_count,
            execution_count=counted.execution_count,
        )
        for phase in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
            _duration(getattr(entry.inference_stats, phase), getattr(counted, phase))
        for size, batch in sorted(counted.batches.items()):
            line = entry.batch_stats.add(batch_size=size)
            for phase in ("compute_input", "compute_infer", "compute_output"):
                _duration(getattr(line, phase), getattr(batch, phase))
    return message


def describe(info: ModelInfo, manifest: Manifest, limits: kan_pb2.QueryLimits) -> kan_pb2.DescribeModelResponse:
    """DescribeModel: the whole manifest, except file sizes and reference rows."""
    message = kan_pb2.DescribeModelResponse(
        model_name=info.name,
        model_version=str(info.version),
        digest=info.digest,
        family=manifest.source.family,
        edge_class=manifest.edge_class,
        max_batch_size=info.max_batch_size,
        notes=manifest.notes,
        limits=limits,
        features=manifest.names.features,
        classes=manifest.names.classes,
        units=manifest.names.units,
        description=manifest.names.description,
        out_of_range_policy=manifest.out_of_range,
    )
    message.input.CopyFrom(_tensor(info.inputs[0]))
    message.output.CopyFrom(_tensor(info.outputs[0]))
    message.inputs.extend(map(_tensor, info.inputs))
    message.outputs.extend(map(_tensor, info.outputs))
    message.layers.extend(_layer(at, layer) for at, layer in enumerate(manifest.layers))
    message.source.exporter_version = manifest.exporter_version
    for file in manifest.source.files:
        message.source.files.add(name=file.name, sha256=file.sha256)
    message.source.options_given.update(manifest.source.options_given)
    message.source.options_assumed.update(manifest.source.options_assumed)
    message.source.options_decided.update(manifest.source.options_decided)
    message.source.alternatives.update(manifest.source.alternatives)
    for scaler, part in (
        (manifest.scalers.inputs, message.input_scaler),
        (manifest.scalers.outputs, message.output_scaler),
    ):
        if scaler:
            part.CopyFrom(_scaler(scaler))
    _verification(message, manifest)
    if manifest.intervals.method:
        message.intervals.CopyFrom(_intervals(manifest.intervals))
    if manifest.certificate:
        few = len(manifest.certificate.low) * len(manifest.certificate.output_low) <= EFFECTS
        message.certificate.CopyFrom(_certificate(manifest.certificate, manifest.names, effects=few))
    if manifest.error_bars:
        message.error_bars.CopyFrom(_error_bars(manifest.error_bars))
    if manifest.edit:
        message.edit.CopyFrom(edit_to_pb(manifest.edit))
    return message


def certificates(info: ModelInfo, manifest: Manifest) -> kan_pb2.GetCertificatesResponse:
    """GetCertificates: the certificate of the export with all effects, if there is one."""
    message = kan_pb2.GetCertificatesResponse(model_name=info.name, model_version=str(info.version), digest=info.digest)
    if manifest.certificate:
        message.certificates.append(_certificate(manifest.certificate, manifest.names, effects=True))
    return message


def _certificate(stored: CertificateInfo, names: Names, *, effects: bool) -> kan_pb2.Certificate:
    message = kan_pb2.Certificate(
        method=stored.method,
        box=stored.box,
        sha256=stored.sha256,
        low=stored.low,
        high=stored.high,
        assumptions=stored.assumptions,
        boxes=stored.boxes,
        budget=stored.budget,
        seconds=stored.seconds,
        range_check=stored.range_check,
    )
    for at, low in enumerate(stored.output_low):
        message.outputs.add(
            name=names.output(at),
            low=low,
            high=stored.output_high[at],
            found_low=stored.found_low[at],
            found_high=stored.found_high[at],
            float32_slack=stored.slack[at],
            at_low=stored.at_low[at] if stored.at_low else (),
            at_high=stored.at_high[at] if stored.at_high else (),
        )
    for i, bounds in enumerate(stored.lipschitz if effects else ()):
        for o, bound in enumerate(bounds):
            message.effects.add(input=i, output=o, direction=stored.direction(i, o), lipschitz=bound)
    for witness in stored.witnesses if effects else ():
        effect = message.effects[witness.input * len(stored.output_low) + witness.output]
        for step, numbers in ((effect.rises, witness.rises), (effect.falls, witness.falls)):
            step.row.extend(numbers[:-1])
            step.to = numbers[-1]
    return message


def edit_to_pb(edit: Edit) -> kan_pb2.Edit:
    """The section `edit` of a manifest."""
    fields = dataclasses.asdict(edit)
    fields["edges"] = [kan_pb2.Edit.Edge(**edge) for edge in fields["edges"]]
    return kan_pb2.Edit(**{**fields, "parent_version": str(edit.parent_version)})


def _intervals(intervals: Intervals) -> kan_pb2.Intervals:
    fields = dataclasses.asdict(intervals)
    del fields["low"], fields["high"]
    return kan_pb2.Intervals(**{**fields, "outputs": [kan_pb2.Intervals.Output(**own) for own in fields["outputs"]]})


def _error_bars(section: ErrorBars) -> kan_pb2.ErrorBars:
    return kan_pb2.ErrorBars(
        assumption=section.assumption,
        factor=section.factor,
        name=section.name,
        sha256=section.sha256,
        rows=section.rows,
        rows_outside=section.outside,
        checked=section.checked,
        missed=section.missed,
        needed=section.needed,
        median=section.median,
    )


def _scaler(scaler: Scaler) -> kan_pb2.Scaler:
    return kan_pb2.Scaler(
        kind=scaler.kind,
        offset=_packed(scaler.offset, "<f8"),
        scale=_packed(scaler.scale, "<f8"),
        range=scaler.range,
        name=scaler.name,
        sha256=scaler.sha256,
    )


def _verification(message: kan_pb2.DescribeModelResponse, manifest: Manifest) -> None:
    proof = manifest.verification
    message.verification.basis = manifest.verification_basis
    message.verification.claim = manifest.claim
    for output in proof.expected_outputs:
        message.verification.expected_outputs.add(
            name=output.name,
            sha256=output.sha256,
            rows=output.rows,
            max_abs=output.max_abs,
            max_rel=output.max_rel,
            tolerance=output.tolerance,
        )
    message.verification.outputs_tolerance = proof.outputs_tolerance
    message.verification.edges_tolerance = proof.edges_tolerance
    for zone in proof.zones:
        message.verification.zones.add(
            name=zone.name,
            rows=zone.rows,
            outputs_max_abs=zone.outputs_max_abs,
            outputs_max_rel=zone.outputs_max_rel,
            edges_max_abs=zone.edges_max_abs,
            edges_max_rel=zone.edges_max_rel,
            worst_output=zone.worst_output,
            worst_edge=zone.worst_edge,
        )


def _layer(index: int, layer: LayerInfo) -> kan_pb2.Layer:
    message = kan_pb2.Layer(
        index=index,
        sources=layer.sources,
        destinations=layer.destinations,
        bases=[_basis(basis) for basis in layer.bases],
        pre_steps=[_step(step) for step in layer.pre_steps],
        post_steps=[_step(step) for step in layer.post_steps],
        mask=_packed(layer.mask, "<f4"),
        bias=_packed(layer.bias, "<f8"),
        active_edges=layer.active_edges,
        name=layer.name,
        edge_class=layer.edge_class,
        positions=layer.positions,
    )
    for edge in layer.symbolic:
        message.symbolic.add(
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
    return message


def _basis(basis: BasisInfo) -> kan_pb2.Basis:
    return kan_pb2.Basis(
        kind=basis.kind,
        functions=basis.functions,
        parameters=basis.parameters,
        knots=_packed(basis.knots, "<f8"),
        knot_rows=len(basis.knots),
        per_edge=basis.per_edge,
        pre_steps=[_step(step) for step in basis.pre_steps],
    )


def _step(step: NodeStep) -> kan_pb2.NodeStep:
    return kan_pb2.NodeStep(
        kind=step.kind,
        indices=step.indices,
        scale=_packed(step.scale, "<f8"),
        bias=_packed(step.bias, "<f8"),
        epsilon=step.epsilon,
        function=step.function,
    )


def _packed(values: Sequence[float] | Sequence[Sequence[float]], dtype: str) -> bytes:
    """The numbers in parts, because no other thread runs while numpy converts a sequence."""
    width = len(values[0]) if values and isinstance(values[0], Sequence) else 1
    step = max(1, PART // max(1, width))
    parts = (values[at : at + step] for at in range(0, len(values), step))
    return b"".join(np.asarray(part, dtype).tobytes() for part in parts)


def _tensor(tensor: TensorInfo) -> kan_pb2.TensorInfo:
    return kan_pb2.TensorInfo(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _datatype(tensor: TensorInfo) -> Any:
    return model_config_pb2.DataType.Value("TYPE_STRING" if tensor.datatype == BYTES else f"TYPE_{tensor.datatype}")


def _duration(message: pb.StatisticDuration, duration: Duration) -> None:
    message.count = duration.count
    message.ns = duration.ns


def _facts(info: ModelInfo) -> dict[str, str]:
    facts = {"kan.digest": info.digest}
    if info.manifest is not None:
        facts |= {
            "kan.family": info.manifest.source.family,
            "kan.edge_class": info.manifest.edge_class,
            "kan.widths": ",".join("x".join(map(str, shape)) for shape in info.manifest.shapes),
            "kan.format": str(info.manifest.format),
            "kan.verification": info.manifest.claim,
            "kan.out_of_range_policy": info.manifest.out_of_range,
            **({"kan.approximation": text} if (text := info.manifest.approximation.text) else {}),
            **_text(displayed(info.manifest)),
            **_scalers(info.manifest),
        }
    return facts


def _scalers(manifest: Manifest) -> dict[str, str]:
    """The scalers in one line of text each; a scaler of many columns is shortened."""
    sides = {
        "kan.input_scaler": (manifest.scalers.inputs, manifest.names.feature),
        "kan.output_scaler": (manifest.scalers.outputs, manifest.names.output),
    }
    return {key: scaler.text(name) for key, (scaler, name) in sides.items() if scaler}


def displayed(manifest: Manifest) -> dict[str, str | list[str]]:
    """The display names of a model's inputs, units and classes, its description, and its prediction intervals and error
    bars in one sentence each. Empty ones are left out."""
    names = manifest.names
    fields: dict[str, str | list[str]] = {
        "kan.features": list(names.features),
        "kan.units": list(names.units),
        "kan.classes": list(names.classes),
        "kan.description": names.description,
        INTERVAL: manifest.intervals.text,
        ERROR_BAR: manifest.error_bars.text,
    }
    return {key: value for key, value in fields.items() if value}


def _text(fields: dict[str, str | list[str]]) -> dict[str, str]:
    """The fields as text, lists as JSON."""
    return {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
        for key, value in fields.items()
    }


REQUEST = "kan.max_request_bytes"
GRAPH = "kan.graph"  # the file that runs
MANY = "kan.many_rows_from"  # number of rows from which runs use the large-batch graph
# `default_timeout_microseconds` and `max_queue_size` are unsigned: 0 stands for none.
ACTIONS = {False: config_pb.ModelQueuePolicy.REJECT, True: config_pb.ModelQueuePolicy.DELAY}


def add(message: config_pb.ModelConfig, serving: Serving) -> None:
    """Fill the fields that `repository/pbtxt.py` reads."""
    _versions(message.version_policy, serving.versions)
    kind = config_pb.ModelInstanceGroup.KIND_GPU if serving.device == "cuda" else config_pb.ModelInstanceGroup.KIND_CPU
    message.instance_group.add(count=serving.way.instances, kind=kind)
    message.parameters[THREADS].string_value = str(serving.way.threads)
    message.parameters[GRAPH].string_value = KERNEL_FILE if serving.way.kernel else MODEL_FILE
    message.parameters[REQUEST].string_value = str(serving.max_request_bytes)
    if serving.way.many_from:
        message.parameters[MANY].string_value = str(serving.way.many_from)
    if serving.policy.max_rows or len(serving.policy.levels) > 1:
        _batching(message.dynamic_batching, serving.policy, serving.max_pending_requests)


def _versions(message: Any, policy: VersionPolicy) -> None:
    if policy.latest:
        message.latest.num_versions = policy.latest
    elif policy.specific is not None:
        message.specific.versions.extend(policy.specific)
    else:
        message.all.SetInParent()


def _batching(message: Any, policy: Policy, max_pending_requests: int) -> None:
    message.preferred_batch_size.extend(policy.preferred)
    message.max_queue_delay_microseconds = round(policy.delay * 1e6)
    message.preserve_ordering = policy.ordered
    if len(policy.levels) == 1:
        _level(message.default_queue_policy, policy.levels[0], max_pending_requests)
        return
    message.priority_levels = len(policy.levels)
    message.default_priority_level = policy.usual + 1
    for at, level in enumerate(policy.levels, 1):
        _level(message.priority_queue_policy[at], level, max_pending_requests)


def _level(message: Any, level: PriorityLevel, max_pending_requests: int) -> None:
    message.timeout_action = ACTIONS[level.delays]
    message.default_timeout_microseconds = round((level.timeout or 0.0) * 1e6)
    message.allow_timeout_override = level.override
    message.max_queue_size = level.most or max_pending_requests
