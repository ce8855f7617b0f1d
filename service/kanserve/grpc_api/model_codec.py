"""Codec of model facts: the single mapping from a manifest to protobuf messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message

from kanexport.shared.custom_ops import KERNEL_FILE
from kanexport.shared.error_bars import NAME as ERROR_BAR
from kanexport.shared.manifest import MODEL_FILE, Manifest, NodeStep
from kanexport.shared.naming import Names
from kanexport.shared.sections import CertificateInfo, Edit, Scaler
from kanexport.shared.triton import THREADS
from kanserve.analysis.intervals import NAME as INTERVAL
from kanserve.execution.config import Serving
from kanserve.models.model import Model
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.pb import model_config_pb2 as config_pb
from kanserve.scheduling.queue import PriorityLevel
from kanserve.types import BYTES, ModelInfo, TensorInfo

PLATFORM = "onnxruntime_onnx"  # Triton's name, which tools read
BACKEND = "onnxruntime"
FILE_NAME = "model.onnx"
PART = 2**15  # numbers, about a millisecond
EFFECTS = 1024  # of a certificate; DescribeModel leaves out more


M = TypeVar("M", bound=Message)


def filled(kind: type[M], source: object, /, **fields: Any) -> M:
    """A message with these fields. Each other field has the value of the attribute of `source` with its name."""
    build: Callable[..., M] = kind
    others = (field.name for field in kind.DESCRIPTOR.fields if field.name not in fields)
    return build(**fields, **{name: getattr(source, name) for name in others})


def each(kind: type[M], sources: Iterable[object]) -> list[M]:
    """A message for each source, with the values of its attributes."""
    return [filled(kind, source) for source in sources]


def identity(info: ModelInfo) -> dict[str, Any]:
    """The fields of a response that name the version."""
    return {"model_name": info.name, "model_version": str(info.version), "digest": info.digest}


def metadata(info: ModelInfo, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """ModelMetadata: shapes with the batch dimension."""
    kind = pb.ModelMetadataResponse.TensorMetadata
    message = pb.ModelMetadataResponse(
        name=info.name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=each(kind, info.inputs),
        outputs=each(kind, info.outputs),
    )
    if info.manifest is not None:
        for key, text in _text(displayed(info.manifest)).items():
            message.parameters[key].string_param = text
    return message


def config(info: ModelInfo, serving: Serving) -> config_pb.ModelConfig:
    """ModelConfig in effect: dims without the batch dimension; KAN facts among the parameters."""
    message = config_pb.ModelConfig(
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
    facts, manifest = {"kan.digest": info.digest}, info.manifest
    if manifest is not None:
        facts |= {
            "kan.family": manifest.source.family,
            "kan.edge_class": manifest.edge_class,
            "kan.widths": ",".join("x".join(map(str, shape)) for shape in manifest.shapes),
            "kan.format": str(manifest.format),
            "kan.verification": manifest.claim,
            "kan.out_of_range_policy": manifest.out_of_range,
            **({"kan.approximation": text} if (text := manifest.approximation.text) else {}),
            **_text(displayed(manifest)),
        }
        if manifest.scalers.inputs:
            facts["kan.input_scaler"] = manifest.scalers.inputs.text(manifest.names.feature)
        if manifest.scalers.outputs:
            facts["kan.output_scaler"] = manifest.scalers.outputs.text(manifest.names.output)
    for key, value in facts.items():
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
            getattr(entry.inference_stats, phase).CopyFrom(filled(pb.StatisticDuration, getattr(counted, phase)))
        for size, batch in sorted(counted.batches.items()):
            line = entry.batch_stats.add(batch_size=size)
            for phase in ("compute_input", "compute_infer", "compute_output"):
                getattr(line, phase).CopyFrom(filled(pb.StatisticDuration, getattr(batch, phase)))
    return message


def describe(info: ModelInfo, manifest: Manifest, limits: kan_pb2.QueryLimits) -> kan_pb2.DescribeModelResponse:
    """DescribeModel: the whole manifest, except file sizes and reference rows."""
    inputs, outputs = (each(kan_pb2.TensorInfo, part) for part in (info.inputs, info.outputs))
    certificate, intervals, bars = manifest.certificate, manifest.intervals, manifest.error_bars
    few = len(certificate.low) * len(certificate.output_low) <= EFFECTS
    quantiles = each(kan_pb2.Intervals.Output, intervals.outputs)
    proof = manifest.verification
    return kan_pb2.DescribeModelResponse(
        **identity(info),
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
        input=inputs[0],
        output=outputs[0],
        inputs=inputs,
        outputs=outputs,
        layers=[
            filled(
                kan_pb2.Layer,
                layer,
                index=at,
                bases=[
                    filled(
                        kan_pb2.Basis,
                        basis,
                        knots=_packed(basis.knots, "<f8"),
                        knot_rows=len(basis.knots),
                        pre_steps=map(_step, basis.pre_steps),
                    )
                    for basis in layer.bases
                ],
                pre_steps=map(_step, layer.pre_steps),
                post_steps=map(_step, layer.post_steps),
                mask=_packed(layer.mask, "<f4"),
                bias=_packed(layer.bias, "<f8"),
                symbolic=each(kan_pb2.SymbolicEdge, layer.symbolic),
            )
            for at, layer in enumerate(manifest.layers)
        ],
        source=filled(
            kan_pb2.Source,
            manifest.source,
            exporter_version=manifest.exporter_version,
            files=each(kan_pb2.Source.File, manifest.source.files),
        ),
        input_scaler=_scaler(manifest.scalers.inputs),
        output_scaler=_scaler(manifest.scalers.outputs),
        verification=filled(
            kan_pb2.Verification,
            proof,
            basis=manifest.verification_basis,
            claim=manifest.claim,
            zones=each(kan_pb2.Verification.Zone, proof.zones),
            expected_outputs=each(kan_pb2.ParityCheck, proof.expected_outputs),
        ),
        intervals=filled(kan_pb2.Intervals, intervals, outputs=quantiles) if intervals.method else None,
        certificate=_certificate(certificate, manifest.names, effects=few) if certificate else None,
        error_bars=filled(kan_pb2.ErrorBars, bars, rows_outside=bars.outside) if bars else None,
        edit=edit_to_pb(manifest.edit) if manifest.edit else None,
    )


def certificates(info: ModelInfo, manifest: Manifest) -> kan_pb2.GetCertificatesResponse:
    """GetCertificates: the certificate of the export with all effects, if there is one."""
    stored = [manifest.certificate] if manifest.certificate else []
    messages = [_certificate(certificate, manifest.names, effects=True) for certificate in stored]
    return kan_pb2.GetCertificatesResponse(**identity(info), certificates=messages)


def _certificate(stored: CertificateInfo, names: Names, *, effects: bool) -> kan_pb2.Certificate:
    message = filled(kan_pb2.Certificate, stored, outputs=(), effects=())
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
    edges = each(kan_pb2.Edit.Edge, edit.edges)
    return filled(kan_pb2.Edit, edit, parent_version=str(edit.parent_version), edges=edges)


def _scaler(scaler: Scaler) -> kan_pb2.Scaler | None:
    if not scaler:
        return None
    offset, scale = _packed(scaler.offset, "<f8"), _packed(scaler.scale, "<f8")
    return filled(kan_pb2.Scaler, scaler, offset=offset, scale=scale)


def _step(step: NodeStep) -> kan_pb2.NodeStep:
    return filled(kan_pb2.NodeStep, step, scale=_packed(step.scale, "<f8"), bias=_packed(step.bias, "<f8"))


def _packed(values: Sequence[float] | Sequence[Sequence[float]], dtype: str) -> bytes:
    """The numbers in parts, because no other thread runs while numpy converts a sequence."""
    width = len(values[0]) if values and isinstance(values[0], Sequence) else 1
    step = max(1, PART // max(1, width))
    parts = (values[at : at + step] for at in range(0, len(values), step))
    return b"".join(np.asarray(part, dtype).tobytes() for part in parts)


def _datatype(tensor: TensorInfo) -> Any:
    return config_pb.DataType.Value("TYPE_STRING" if tensor.datatype == BYTES else f"TYPE_{tensor.datatype}")


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
    versions, policy = serving.versions, serving.policy
    if versions.latest:
        message.version_policy.latest.num_versions = versions.latest
    elif versions.specific is not None:
        message.version_policy.specific.versions.extend(versions.specific)
    else:
        message.version_policy.all.SetInParent()
    kind = config_pb.ModelInstanceGroup.KIND_GPU if serving.device == "cuda" else config_pb.ModelInstanceGroup.KIND_CPU
    message.instance_group.add(count=serving.plan.instances, kind=kind)
    message.parameters[THREADS].string_value = str(serving.plan.threads)
    message.parameters[GRAPH].string_value = KERNEL_FILE if serving.plan.kernel else MODEL_FILE
    message.parameters[REQUEST].string_value = str(serving.max_request_bytes)
    if serving.plan.many_from:
        message.parameters[MANY].string_value = str(serving.plan.many_from)
    if not policy.max_rows and len(policy.levels) == 1:
        return
    batching = message.dynamic_batching
    batching.preferred_batch_size.extend(policy.preferred)
    batching.max_queue_delay_microseconds = round(policy.delay * 1e6)
    batching.preserve_ordering = policy.ordered
    if len(policy.levels) == 1:
        _level(batching.default_queue_policy, policy.levels[0], serving.max_pending_requests)
        return
    batching.priority_levels = len(policy.levels)
    batching.default_priority_level = policy.usual + 1
    for at, level in enumerate(policy.levels, 1):
        _level(batching.priority_queue_policy[at], level, serving.max_pending_requests)


def _level(message: Any, level: PriorityLevel, max_pending_requests: int) -> None:
    message.timeout_action = ACTIONS[level.delays]
    message.default_timeout_microseconds = round((level.timeout or 0.0) * 1e6)
    message.allow_timeout_override = level.override
    message.max_queue_size = level.most or max_pending_requests
