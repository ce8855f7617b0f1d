"""Inference: check a request against its model, run it, count it.

The order of the checks and their words are Triton's, so that a client written
against Triton meets nothing new.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kanserve.errors import (
    BackendError,
    BadRequest,
    DeadlineExceeded,
    Exhausted,
    KanserveError,
    QueueFull,
    QueueTimeout,
)
from kanserve.handlers import tensors
from kanserve.models.executor import Limits
from kanserve.models.model import Model
from kanserve.models.registry import Registry
from kanserve.nouns import (
    BYTES,
    HELD,
    Array,
    InferRequest,
    InferResponse,
    InputTensor,
    ModelInfo,
    OutputTensor,
    TensorInfo,
)
from kanserve.observe.metrics import Metrics, ModelMetrics
from kanserve.observe.statistics import FailureReason, Timing

REJECTED = (QueueFull, QueueTimeout, DeadlineExceeded)
BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended "
    "to each input shape. If you want to specify the full shape including the batch dim in your input dims "
    "config, try setting max_batch_size to zero. See the model configuration docs for more info on "
    "max_batch_size."
)


@dataclass(frozen=True, slots=True)
class Inference:
    """The use case; one per server."""

    registry: Registry
    metrics: Metrics
    max_response_bytes: int
    max_strings: int

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer one request. Raises any KanserveError that `errors.py` lists for requests."""
        started = time.perf_counter_ns()
        series = self.metrics.unknown
        try:
            model = self.registry.resolve(request.model, request.version)
            series = model.metrics
            response = await self._run(model, request)
        except asyncio.CancelledError:
            series.statistics.failed(time.perf_counter_ns() - started, FailureReason.CANCELED)
            raise
        except KanserveError as error:
            series.statistics.failed(time.perf_counter_ns() - started, _reason(error))
            raise
        spent = time.perf_counter_ns() - started
        series.statistics.succeeded(spent, time.time_ns() // 10**6)
        series.request_seconds.observe(spent / 1e9)
        return response

    async def _run(self, model: Model, request: InferRequest) -> InferResponse:
        begun = time.perf_counter_ns()
        info = model.info
        outputs = _outputs(info, request)
        rows = validate(info, request)
        self._bound(info, outputs, rows)
        feeds = {tensor.name: self._array(info, request, tensor) for tensor in request.inputs}
        if rows == 0 and not any(-1 in tensor.shape[1:] for tensor in outputs):
            return _response(info, request, [_empty(tensor) for tensor in outputs])
        input_ns = time.perf_counter_ns() - begun
        limits = Limits(request.queue_timeout, request.deadline)
        run = await model.run([tensor.name for tensor in outputs], feeds, rows=rows, limits=limits)
        begun = time.perf_counter_ns()
        answers = [self._packed(tensor, array) for tensor, array in zip(outputs, run.outputs, strict=True)]
        timing = Timing(run.queue_ns, input_ns, run.infer_ns, time.perf_counter_ns() - begun)
        _count(model.metrics, rows, timing)
        return _response(info, request, answers)

    def _array(self, info: ModelInfo, request: InferRequest, tensor: InputTensor) -> Array:
        if tensor.datatype != BYTES:
            return tensors.numbers(tensor)
        return tensors.strings(tensor, info.name, most=self.max_strings, prefix=_prefix(request))

    def _packed(self, tensor: TensorInfo, array: Array) -> OutputTensor:
        data = tensors.packed(tensor.datatype, array)
        if tensor.datatype == BYTES and len(data) > self.max_response_bytes:  # known no earlier
            raise Exhausted(
                f"output '{tensor.name}' takes {len(data)} bytes, the limit is {self.max_response_bytes}; "
                "send fewer rows in one request"
            )
        return OutputTensor(tensor.name, tensor.datatype, array.shape, data)

    def _bound(self, info: ModelInfo, outputs: Sequence[TensorInfo], rows: int) -> None:
        needed = rows * sum(tensor.row_bytes for tensor in outputs)
        if needed > self.max_response_bytes:
            raise Exhausted(
                f"the answer for {rows} rows of model '{info.name}' takes {needed} bytes, "
                f"the limit is {self.max_response_bytes}; send fewer rows in one request"
            )


def validate(info: ModelInfo, request: InferRequest) -> int:
    """How many rows a request holds. Raises BadRequest naming the first thing wrong with it."""
    prefix = _prefix(request)
    _names(info, request, prefix)
    expected = {tensor.name: tensor for tensor in info.inputs}
    for tensor in request.inputs:
        if any(extent < 0 for extent in tensor.shape):
            raise BadRequest(
                f"{prefix}All input dimensions should be specified for input '{tensor.name}' "
                f"for model '{info.name}', got {_list(tensor.shape)}"
            )
    rows = _rows(info, request, prefix)
    for tensor in request.inputs:
        _check(info, tensor, expected[tensor.name], prefix)
    return rows


def _names(info: ModelInfo, request: InferRequest, prefix: str) -> None:
    wanted = [tensor.name for tensor in info.inputs]
    given = [tensor.name for tensor in request.inputs]
    _once("input", given)
    if len(given) < len(wanted):
        missing = [name for name in wanted if name not in given]
        raise BadRequest(
            f"{prefix}expected {len(wanted)} inputs but got {len(given)} inputs for model '{info.name}'. "
            f"Got input(s) [{_quoted(given)}], but missing required input(s) [{_quoted(missing)}]. "
            "Please provide all required input(s)."
        )
    for name in given:
        if name not in wanted:
            raise BadRequest(f"{prefix}unexpected inference input '{name}' for model '{info.name}'")


def _once(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadRequest(f"{what} '{name}' already exists in request")
        seen.add(name)


def _rows(info: ModelInfo, request: InferRequest, prefix: str) -> int:
    if info.max_batch_size == 0:
        return 1
    counts = {tensor.shape[0] for tensor in request.inputs if tensor.shape}
    if len(counts) > 1:
        raise BadRequest(f"{prefix}the inputs of model '{info.name}' differ in batch size")
    rows = counts.pop() if counts else 0
    if rows > info.max_batch_size:
        raise BadRequest(f"{prefix}inference request batch-size must be <= {info.max_batch_size} for '{info.name}'")
    return rows


def _check(info: ModelInfo, tensor: InputTensor, expected: TensorInfo, prefix: str) -> None:
    """Datatype, then shape, then byte count (of strings later); in Python integers, so nothing overflows."""
    if tensor.datatype != expected.datatype:
        raise BadRequest(
            f"{prefix}inference input '{tensor.name}' data-type is '{tensor.datatype}', "
            f"but model '{info.name}' expects '{expected.datatype}'"
        )
    fits = len(tensor.shape) == len(expected.shape) and all(
        want in (-1, have) for want, have in zip(expected.shape, tensor.shape, strict=True)
    )
    if not fits:
        note = f" {BATCH_NOTE}" if info.max_batch_size else ""
        raise BadRequest(
            f"{prefix}unexpected shape for input '{tensor.name}' for model '{info.name}'. "
            f"Expected {_list(expected.shape)}, got {_list(tensor.shape)}.{note}"
        )
    size = math.prod(tensor.shape) * HELD[tensor.datatype].itemsize
    if size != len(tensor.data) and tensor.datatype != BYTES:
        raise BadRequest(
            f"{prefix}input byte size mismatch for input '{tensor.name}' for model '{info.name}'. "
            f"Expected {size}, got {len(tensor.data)}"
        )


def _outputs(info: ModelInfo, request: InferRequest) -> tuple[TensorInfo, ...]:
    """The outputs asked for, in this order; all of them if none is named."""
    if not request.outputs:
        return info.outputs
    known = {tensor.name: tensor for tensor in info.outputs}
    _once("output", request.outputs)
    for name in request.outputs:
        if name not in known:
            raise BadRequest(f"{_prefix(request)}unexpected inference output '{name}' for model '{info.name}'")
    return tuple(known[name] for name in request.outputs)


def _empty(tensor: TensorInfo) -> OutputTensor:
    return OutputTensor(tensor.name, tensor.datatype, (0, *tensor.shape[1:]), b"")


def _response(info: ModelInfo, request: InferRequest, tensors: Sequence[OutputTensor]) -> InferResponse:
    return InferResponse(info.name, info.version, request.id, tuple(tensors))


def _count(series: ModelMetrics, rows: int, timing: Timing) -> None:
    series.statistics.computed(rows, timing)
    series.queue_seconds.observe(timing.queue / 1e9)


def _reason(error: KanserveError) -> FailureReason:
    if isinstance(error, REJECTED):
        return FailureReason.REJECTED
    if isinstance(error, BackendError):
        return FailureReason.BACKEND
    return FailureReason.OTHER


def _prefix(request: InferRequest) -> str:
    return f"[request id: {request.id or '<id_unknown>'}] "


def _list(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


__all__ = ["Inference", "validate"]
